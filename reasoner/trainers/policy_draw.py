"""What a round of on-policy training draws, and where the loop is: problems in turn, judged trees by place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

from accelerate import Accelerator

from reasoner.data.prompting import Prompting
from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Engine, Sampling
from reasoner.records import SFTExample
from reasoner.scoring.outcome import Judged, judge_while
from reasoner.search.branch import tree_of
from reasoner.search.grow import Growth, StepStop, grow
from reasoner.trainers.curriculum import Answers, History, choose, expected, observe
from reasoner.trainers.plain_trees import plain_of_tree, tree_of_plain
from reasoner.trainers.policy_batch import is_usable, right_share
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.pruning import Observe, live
from reasoner.trainers.ranks import from_everyone
from reasoner.trainers.replay import Kept, buffer_of, state_of
from reasoner.trainers.seen import Seen
from reasoner.trainers.spikes import nothing_seen
from reasoner.trainers.starts import Inside, adapt, add, own_chain, take
from reasoner.tree import ROOT, Problem, Tree, counts


@dataclass
class Position:
    """Where the loop is, on one process: what a checkpoint holds beside weights, optimizers and schedules."""

    cursor: int = 0  # problems taken from the list so far, over all processes
    own_chains: list[SFTExample] = field(default_factory=list)
    watched: list[dict[str, float]] = field(default_factory=list)  # what the alarms look at
    generated: int = 0  # tokens sampled so far, over all processes
    barren: int = 0  # rounds in a row without a usable update
    rollbacks: int = 0
    spikes: dict[str, Any] = field(default_factory=nothing_seen)
    history: History = field(default_factory=History)
    inside: Inside = field(default_factory=Inside)
    buffer: list[Kept] = field(default_factory=list)  # trees that this process may learn from again
    ahead: list[Round] = field(default_factory=list)  # drawn, and not learned from yet
    seen: Seen = field(default_factory=dict)  # of the sets that are mixed, over all processes

    def go_to(self, other: Position) -> None:
        """Be where another is: whoever holds this one follows."""
        vars(self).update(vars(other))


class Found(NamedTuple):
    """A tree that this process has drawn, with its number among all of the round's.

    `statuses` are those of the answers that tell how good the policy is: of whole chains, from the prompts of problems
    that nobody chose for their difficulty, as many of each problem.
    """

    number: int
    tree: Tree
    statuses: Counter[str]


@dataclass
class Round:
    """What a round has drawn on this process; `usable` are (number within the round, tree)."""

    found: list[Found] = field(default_factory=list)
    usable: list[tuple[int, Tree]] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)
    generated: int = 0  # tokens sampled, over all processes

    @property
    def trees(self) -> list[Tree]:
        return [f.tree for f in self.found]

    @property
    def problems(self) -> list[Problem]:
        return [f.tree.problem for f in self.found]

    @property
    def statuses(self) -> Counter[str]:
        return sum((f.statuses for f in self.found), Counter())


class Slot(NamedTuple):
    """A place in a round: a problem by its place in the list, and what is given of a solution."""

    index: int
    given: tuple[int, ...] = ()
    at_random: bool = True
    liked: bool = False


def plain_of(at: Position) -> dict[str, Any]:
    """A position as a checkpoint holds it."""
    made = {
        "own_chains": [asdict(e) for e in at.own_chains],
        "history": asdict(at.history),
        "inside": asdict(at.inside),
        "buffer": state_of(at.buffer),
        "ahead": [r.generated for r in at.ahead],
        "ahead_trees": [
            {"ahead": i, "number": f.number, "statuses": dict(f.statuses), "is_usable": f.number in dict(r.usable),
             **plain_of_tree(f.tree, is_new=True)}
            for i, r in enumerate(at.ahead) for f in r.found
        ],
    }  # fmt: skip
    return {**vars(at), **made}


def position_of(loop: Mapping[str, Any]) -> Position:
    """The position that a checkpoint's `loop` holds."""
    ahead = [Round(generated=generated) for generated in loop["ahead"]]
    for row in loop["ahead_trees"]:
        tree = tree_of_plain(row)
        ahead[row["ahead"]].found.append(Found(row["number"], tree, Counter(row["statuses"])))
        ahead[row["ahead"]].usable += [(row["number"], tree)] if row["is_usable"] else []
    made = {
        "own_chains": [SFTExample(**e) for e in loop["own_chains"]],
        "history": History(**loop["history"]),
        "inside": Inside(**loop["inside"]),
        "buffer": buffer_of(loop["buffer"]),
        "ahead": ahead,
    }
    return Position(**{f.name: made.get(f.name, loop[f.name]) for f in fields(Position)})


def draw(
    problems: Sequence[Problem],
    at: Position,
    round: int,
    engine: Engine,
    prompting: Prompting,
    config: PolicyGradientStage,
    seed: int,
    accelerator: Accelerator,
    score: Observe = lambda trees: None,
) -> Round:
    """Judged trees of the next problems, this process's share; moves the cursor, and of `at` nothing that learning moves.

    `score` sets on trees under way what pruning reads.
    With `max_resamples`, further problems replace those whose trees are of no use. What the engine in this process took
    for drawing is given back: training has the memory.
    """
    found = Round()
    number = 0
    occurred: Counter[str] = Counter()
    for attempt in range(1 + config.max_resamples):
        missing = config.problems_per_round - sum(from_everyone(len(found.usable), drawing=True))
        if missing <= 0:
            break
        slots = next_slots(problems, at, missing, config, round, f"{seed} {round} {attempt}")
        times = []  # each of them had been drawn in this round, by whichever process
        for slot in slots:
            times.append(occurred[problems[slot.index].id])
            occurred[problems[slot.index].id] += 1
        own = [
            i for i in range(missing) if (number + i) % accelerator.num_processes == accelerator.process_index
        ]
        chosen = [problems[slots[i].index] for i in own]
        trees, judged = rollout(
            chosen, engine, prompting, config, seed, round, [times[i] for i in own], [slots[i].given for i in own], score,
        )  # fmt: skip
        if config.curriculum is not None:
            for tree in trees:  # as it was expected before any of it was drawn
                right, wrong = expected(tree.problem, at.history, config.curriculum, round)
                tree.scores["pass_rate"] = {ROOT: [right / (right + wrong)]}
        found.judged += judged
        drawn = [(i, slots[i], tree) for i, tree in zip(own, trees, strict=True)]
        found.found += [Found(number + i, tree, told(slot, tree, config)) for i, slot, tree in drawn]
        found.usable += [(number + i, tree) for i, _, tree in drawn if is_usable(tree, config)]
        note(problems, drawn, at, config, round)
        found.generated += sum(from_everyone(sum(t.num_sampled for t in trees), drawing=True))
        number += missing
    if isinstance(engine, LocalEngine):
        engine.release()
    return found


def next_slots(
    problems: Sequence[Problem], at: Position, num: int, config: PolicyGradientStage, round: int, place: str
) -> list[Slot]:
    """What the next `num` places of a round hold: the same on all processes; moves the cursor and the queue of starts."""
    starts = take(at.inside, int(config.starts.share * num), problems) if config.starts is not None else []
    fresh = num - len(starts)
    if config.curriculum is None:
        slots, looked_at = [Slot((at.cursor + i) % len(problems)) for i in range(fresh)], fresh
    else:
        choices, looked_at = choose(problems, at.cursor, fresh, at.history, config.curriculum, round, place)
        slots = [Slot(c.index, (), c.at_random, c.liked) for c in choices]
    at.cursor += looked_at
    for i, start in enumerate(starts):  # spread over the round, and so over its minibatches
        slots.insert(i * num // len(starts), Slot(start.index, start.given))
    return slots


def told(slot: Slot, tree: Tree, config: PolicyGradientStage) -> Counter[str]:
    """The verdicts of a tree that tell how good the policy is; see Found."""
    if tree.given or not slot.at_random:
        return Counter()
    # what else is drawn may hang on what the first chains came to
    is_whole = not (config.screen or config.prune.rules)
    first = set(tree.verdicts if is_whole else tree.children(ROOT)[: config.screen or None])
    return Counter(v.status for i, v in tree.verdicts.items() if i in first)


def note(
    problems: Sequence[Problem],
    drawn: Sequence[tuple[int, Slot, Tree]],
    at: Position,
    config: PolicyGradientStage,
    round: int,
) -> None:
    """Let choices to come know what all processes have drawn: in the slots' order, so that the state is the same on all."""
    if config.curriculum is None and config.starts is None:
        return
    own = [
        (i, slot, right_share(tree), counts(tree, ROOT, len(tree.nodes[ROOT].token_ids)),
         own_chain(slot.index, tree, right_share(tree), config.starts) if config.starts is not None else None)
        for i, slot, tree in drawn
    ]  # fmt: skip
    rows = sorted((row for rows in from_everyone(own, drawing=True) for row in rows), key=lambda row: row[0])
    if config.curriculum is not None:
        answers = [
            Answers(problems[slot.index], found.c, found.n - found.c, slot.at_random, slot.liked)
            for _, slot, _, found, _ in rows
            if not slot.given
        ]
        observe(at.history, answers, round, config.curriculum)
    if config.starts is not None:
        for _, slot, share, _, _ in rows:
            if slot.given and share is not None:
                adapt(at.inside, problems[slot.index], share, config.starts)
        add(at.inside, [chain for *_, chain in rows], config.starts)


def rollout(
    problems: Sequence[Problem],
    engine: Engine,
    prompting: Prompting,
    config: PolicyGradientStage,
    seed: int,
    round: int,
    occurrences: Sequence[int],
    given: Sequence[tuple[int, ...]],
    score: Observe = lambda trees: None,
) -> tuple[list[Tree], list[Judged]]:
    """One judged tree per problem, by place: the same whatever else is in the batch or on another process.

    `occurrences` tells apart the trees of a problem that comes more than once in the round; `given` are the beginnings
    of solutions that they go on from. With `screen`, a tree's other chains are drawn where the first ones disagree: it
    is then the tree that it would have been anyway.
    """
    trees = [
        Tree.of_prompt(p, prompting.prompt_ids(p.prompt), times, start)
        for p, times, start in zip(problems, occurrences, given, strict=True)
    ]
    growth = Growth(
        prompting.mark_steps, config.max_tokens, Sampling(config.temperature), seed, round,
        step_stop=StepStop(prompting.step_stop_ids, prompting.step_stop_tokens, prompting.is_step_end),
    )  # fmt: skip

    def drawn(trees: Sequence[Tree], **options: int) -> Judged:
        policy = tree_of(config.tree.model_copy(update=options), growth)
        hooks = {}
        if config.prune.rules:
            policy, hooks["observe"] = live(
                policy, config.prune, config.dead_end, prompting, seed, round, score
            )
        return judge_while(
            lambda on_node: grow(trees, engine, policy, growth, on_node=on_node, **hooks),
            trees,
            prompting.decode,
        )

    if not config.screen:
        return trees, [drawn(trees)]
    first = drawn(trees, num_roots=config.screen, num_points=0)
    mixed = [t for t in trees if 0 < (right_share(t) or 0) < 1]
    return trees, [first, drawn(mixed, num_roots=config.tree.num_roots - config.screen)]
