"""Measure how often policies notice a wrong step and mend it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Annotated, Literal

from pydantic import Field

from reasoner.config import Config, Entry, MayChange
from reasoner.engine.connect import EngineConfig
from reasoner.engine.protocol import Engine, Sampling
from reasoner.evals.run import sample, varied
from reasoner.evals.self_correction import (
    Ending,
    first_doubt,
    first_error,
    gain_in_own,
    gains,
    mean_of,
    planted,
    rows_of,
)
from reasoner.folder import StageName
from reasoner.metrics.intervals import paired_difference
from reasoner.registry import UserError, lookup
from reasoner.report.rows import MetricRow, gain_row, to_json
from reasoner.scoring.outcome import core_seconds, judge
from reasoner.search.chain import fan
from reasoner.search.grow import Branch, BranchPolicy, Growth, grow
from reasoner.signals.consensus import JUDGES, StepJudge
from reasoner.stages.context import Context, make_engine
from reasoner.stages.evaluate import shown
from reasoner.stages.references import ModelName, ProblemSet
from reasoner.store import write_json, write_text
from reasoner.tree import ROOT, Node, Problem, Tree, outcome_reward

NUM_SHOWN = 6  # chains of each policy in the report
PLANTED, UNCHANGED = "planted", "unchanged"


class SelfCorrection(Config):
    """Wrong steps that are planted, and those that policies write: how often they are noticed and mended."""

    kind: Literal["self_correction"]
    name: StageName = "self_correction"
    policies: list[ModelName] = Field(
        min_length=1,
        description="stages to measure, or model folders; the first is what the others are compared with",
    )
    problems: list[ProblemSet] = Field(["test"], description="problem sets")
    link: str = Field(
        "Wait, that is wrong.\n",
        min_length=1,
        description="the sign of doubt: `link` of the label stage's traces",
    )
    judge: Annotated[str, Entry("judge of steps", "reasoner.signals.consensus:JUDGES")] = Field(
        "working", min_length=1, description="who tells the policies' own wrong steps: working | arithmetic, or module:function"
    )  # fmt: skip
    num_samples: int = Field(8, ge=1, description="chains per problem in which wrong steps are looked for")
    temperature: float = Field(
        1.0, gt=0, description="sampling temperature of these; what follows an error is greedy"
    )
    max_tokens: int = Field(256, ge=1, description="longest completion")
    num_slots: Annotated[int, MayChange()] = Field(256, ge=1, description="sequences decoded at once")
    engine: Annotated[EngineConfig, MayChange()] = EngineConfig()


class _Prefix:
    """The beginning of a chain that policies go on from."""

    def __init__(self, problem: Problem, steps: Sequence[str]):
        self.problem, self.text = problem, "".join(steps)


def run_self_correction(config: SelfCorrection, context: Context) -> None:
    session = context.session
    problems = [i.problem for i in context.items(config.problems)]
    names = shown(config.policies)
    judge_fn = lookup(JUDGES, config.judge, "judge of steps")
    rows: list[MetricRow] = []
    samples: list[dict] = []
    given: dict[str, list[_Prefix]] = {}
    first: _Answers | None = None
    for done, policy in enumerate(config.policies):
        answers = _Answers(config, context, policy, problems, judge_fn)
        if first is None:
            given = _prefixes(config, answers, names[policy], session.seed)
        answers.go_on_from(given)
        rows += answers.rows(config.name, names[policy])
        if first is not None:
            rows += _compared(config.name, answers, first, names[policy], names[config.policies[0]])
        first = first or answers
        told = varied(answers.continued[PLANTED], NUM_SHOWN)
        samples += [sample(t, answers.prompting, names[policy]) for t in told]
        session.progress(done + 1, len(config.policies), names[policy])
    write_text(session.out / "rows.json", to_json(rows))
    write_json(session.out / "samples.json", samples)


class _Answers:
    """What one policy writes: greedy and sampled chains, and what follows the given beginnings."""

    def __init__(
        self,
        config: SelfCorrection,
        context: Context,
        policy: str,
        problems: list[Problem],
        judge_fn: StepJudge,
    ):
        self.config, self.ledger, self.seed = config, context.session.ledger, context.session.seed + 10**6
        self.prompting, self.judge_fn = context.prompting(policy), judge_fn
        longest = max(len(self.prompting.prompt_ids(p.prompt)) for p in problems) + config.max_tokens
        self.engine: Engine = make_engine(
            policy, context, longest, config.num_slots, config.engine, alone=True
        )
        self.greedy = self._drawn(self._bare(problems), fan(1), 0.0)
        self.sampled = self._drawn(self._bare(problems), fan(config.num_samples), config.temperature)
        self.continued: dict[str, list[Tree]] = {}
        self.endings: dict[str, list[Ending]] = {}

    def go_on_from(self, given: dict[str, list[_Prefix]]) -> None:
        """Greedy continuations of each kind of beginning."""
        for name, prefixes in given.items():
            trees = []
            for prefix in prefixes:
                (tree,) = self._bare([prefix.problem])
                ids = self.prompting.encode(prefix.text)
                ends = tuple(self.prompting.mark_steps(ids))
                tree.add(
                    Node(
                        ROOT, len(tree.nodes[ROOT].token_ids), tuple(ids), step_ends=ends, stop_reason="open"
                    )
                )
                trees.append(tree)
            self.continued[name] = self._drawn(trees, _after_prefix, 0.0)
            self.endings[name] = [self._ending(tree) for tree in trees]
        del self.engine  # room for the next policy's

    def rows(self, stage: str, when: str) -> list[MetricRow]:
        found = mean_of(stage, "pass@1", "greedy", when, self.pass_at_1(self.greedy))
        found += mean_of(stage, "pass@1", "sampled", when, self.pass_at_1(self.sampled))
        for method, endings in self.endings.items():
            if method == UNCHANGED:
                alarms = [float(e.is_noticed) for e in endings]
                found += mean_of(stage, "false_alarm", method, when, alarms)
                found += rows_of(stage, method, when, endings)[1:]
            else:
                found += rows_of(stage, method, when, endings)
        own = self.own_errors()
        return found + (rows_of(stage, "own error", when, own) if own else [])

    def pass_at_1(self, trees: list[Tree]) -> list[float]:
        """By problem; NaN where an answer was not judged."""
        return [
            sum(math.nan if r is None else r for r in map(outcome_reward, t.verdicts.values()))
            / len(t.verdicts)
            for t in trees
        ]

    def own_errors(self) -> list[Ending]:
        """How the sampled chains end that hold a wrong step."""
        found = []
        for tree in self.sampled:
            for leaf in tree.leaves():
                cut = first_error(
                    tree.problem.prompt, self.steps(tree, leaf), self.config.link, self.judge_fn
                )
                if cut is not None:
                    found.append(Ending(tree.problem.id, cut.is_noticed, _is_right(tree, leaf)))
        return found

    def steps(self, tree: Tree, leaf: int) -> list[str]:
        ids = tree.completion_ids(leaf)
        return self.prompting.step_texts(ids, self.prompting.mark_steps(ids))

    def _ending(self, tree: Tree) -> Ending:
        (leaf,) = tree.leaves()
        begun = len(self.prompting.decode(tree.nodes[1].token_ids))
        after = self.prompting.decode(tree.completion_ids(leaf))[begun:]
        is_noticed = first_doubt([after], self.config.link) is not None
        return Ending(tree.problem.id, is_noticed, _is_right(tree, leaf))

    def _bare(self, problems: Sequence[Problem]) -> list[Tree]:
        return [Tree.of_prompt(p, self.prompting.prompt_ids(p.prompt)) for p in problems]

    def _drawn(self, trees: list[Tree], policy: BranchPolicy, temperature: float) -> list[Tree]:
        growth = Growth(self.prompting.mark_steps, self.config.max_tokens, Sampling(temperature), self.seed)
        grow(trees, self.engine, policy, growth)
        num = judge(trees, self.prompting.decode).total()
        self.ledger.add("verifier", verifications=num, verifier_seconds=core_seconds(trees))
        return trees


def _after_prefix(tree: Tree, wave: int) -> list[Branch]:
    return [Branch(1, len(tree.nodes[1].token_ids))] if wave == 0 else []


def _is_right(tree: Tree, leaf: int) -> bool | None:
    reward = outcome_reward(tree.verdicts[leaf])
    return None if reward is None else reward > 0


def _prefixes(config: SelfCorrection, first: _Answers, name: str, seed: int) -> dict[str, list[_Prefix]]:
    """Of the first policy's samples: a right chain a problem with and without a planted error, and a wrong one to its
    first wrong step."""
    found: dict[str, list[_Prefix]] = {PLANTED: [], UNCHANGED: [], f"{name}'s error": []}
    for tree in first.sampled:
        chains = {leaf: first.steps(tree, leaf) for leaf in tree.leaves()}
        for leaf, steps in chains.items():
            rng = Random(f"{seed} {tree.problem.id}")
            is_bare = first_doubt(steps, config.link) is None
            wrong = planted(steps, rng) if _is_right(tree, leaf) and is_bare else None
            if wrong is not None:
                found[PLANTED].append(_Prefix(tree.problem, wrong))
                found[UNCHANGED].append(_Prefix(tree.problem, steps[: len(wrong)]))
                break
        for leaf, steps in chains.items():
            cut = (
                None
                if _is_right(tree, leaf)
                else first_error(tree.problem.prompt, steps, config.link, first.judge_fn)
            )
            if cut is not None and len(cut.steps) < len(steps):
                found[f"{name}'s error"].append(_Prefix(tree.problem, cut.steps))
                break
    if not found[PLANTED]:
        raise UserError(
            f"no right chain of {name} holds a written calculation to plant an error in; expected steps such as 3+4=7 "
            "before the answer: another problem set, or a policy that works problems out"
        )
    return {kind: prefixes for kind, prefixes in found.items() if prefixes}


def _compared(stage: str, answers: _Answers, first: _Answers, when: str, over: str) -> list[MetricRow]:
    found: list[MetricRow] = []
    for method, trees in {"greedy": "greedy", "sampled": "sampled"}.items():
        a, b = answers.pass_at_1(getattr(answers, trees)), first.pass_at_1(getattr(first, trees))
        found.append(gain_row(stage, "pass@1", method, when, over, "all", paired_difference(a, b)))
    for method in answers.endings:
        found += gains(stage, method, when, over, answers.endings[method], first.endings[method])
    own = gain_in_own(stage, "own error", when, over, answers.own_errors(), first.own_errors())
    return found + ([own] if own is not None else [])
