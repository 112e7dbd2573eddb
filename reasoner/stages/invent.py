"""New problems that a model writes from old ones, and keeps where most of its own answers are the same."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

from accelerate import PartialState
from pydantic import AfterValidator, Field

from reasoner.config import Config, MayChange
from reasoner.data.diversity import diversity
from reasoner.data.prompting import Prompting
from reasoner.data.splits import HeldOut
from reasoner.engine.connect import EngineConfig
from reasoner.engine.protocol import Sampling
from reasoner.folder import StageName
from reasoner.registry import UserError
from reasoner.search.answers import read_answer
from reasoner.search.chain import fan
from reasoner.search.grow import Growth, grow
from reasoner.signals.invented import (
    EXAMPLES,
    Try,
    counted,
    once_each,
    question_of,
    voted,
    writing_prompt,
)
from reasoner.stages.context import Context, make_engine
from reasoner.stages.references import ModelName, ReadSet, made_file
from reasoner.stages.share import AHEAD, Share
from reasoner.store import read_json, write_json, write_text
from reasoner.trainers.ranks import from_everyone
from reasoner.tree import Node, Problem, Tree

TRIES = "tries"  # in the folder of the parts, and beside the problems that are kept
PER_PART = 64  # tries of a part, which are written together and then answered together
VERIFIER = "math"  # of old problems that can be shown, and of new ones: votes compare answers as mathematics


def _shows_examples(template: str) -> str:
    if EXAMPLES not in template:
        raise ValueError(f"got {template!r}; expected {EXAMPLES} in it, where the old problems stand")
    return template


class Invent(Config):
    """Let a model write new word problems from old ones; later stages take those that are kept as a problem set of the stage's
    name. Kept is a problem that is new and on whose answer enough of several draws agree."""

    kind: Literal["invent"]
    name: StageName = "invent"
    model: ModelName = Field(description="stage, folder or hub name of the model that writes")
    solver: ModelName = Field(default="", description="model that answers; empty: the one that writes")
    problems: list[ReadSet] = Field(
        ["train"], min_length=1, description="problem sets, of which those with math answers are shown"
    )
    num_problems: int = Field(1000, ge=1, description="how many are tried; as a rule most are dropped")
    examples: int = Field(
        4, ge=1, description="old problems shown for each new one, drawn by the try's number"
    )
    prompt: Annotated[str, AfterValidator(_shows_examples)] = Field(
        "Here are some problems. Write one more of this kind, with another story and other numbers.\n\n"
        f"{EXAMPLES}\n\nProblem:",
        description=f"what the model goes on from, or with prompt.chat what it is asked; {EXAMPLES} is replaced literally by the "
        'old problems, each behind "Problem: "',
    )  # fmt: skip
    temperature: float = Field(1.0, gt=0, description="sampling temperature of questions and answers")
    max_tokens: int = Field(256, ge=1, description="longest question, and longest answer")
    num_answers: int = Field(8, ge=2, description="answers drawn to each new problem, one vote each")
    agreement: float = Field(
        0.5,
        gt=0,
        le=1,
        description="least share of the votes, those without an answer counted, that name the answer of a kept problem",
    )
    num_slots: Annotated[int, MayChange()] = Field(256, ge=1, description="sequences decoded at once")
    engine: Annotated[EngineConfig, MayChange()] = EngineConfig()


@dataclass(frozen=True)
class Hand:
    """Who draws for one task: an engine, how it is prompted, the name it is booked under, and the tokens that it has room for."""

    name: str
    engine: Any
    prompting: Prompting
    longest: int

    def draw(
        self, problems: Sequence[Problem], num: int, config: Invent, context: Context
    ) -> list[list[Node]]:
        """`num` continuations of each prompt."""
        trees = [Tree.of_prompt(p, self.prompting.prompt_ids(p.prompt)) for p in problems]
        sampling = Sampling(config.temperature)
        growth = Growth(self.prompting.mark_steps, config.max_tokens, sampling, context.session.seed)
        self.engine.name = self.name
        grow(trees, self.engine, fan(num), growth, ahead=AHEAD * config.num_slots)
        context.session.ledger.add(self.name, trajectories_generated=num * len(trees))
        return [tree.nodes[1:] for tree in trees]

    def text(self, node: Node) -> str:
        return self.prompting.decode(node.token_ids)


def run_invent(config: Invent, context: Context) -> None:
    """Problems go to records/<name>/problems.jsonl, and all tries with what became of them to tries.jsonl beside it."""
    session = context.session
    assert session.parts is not None
    shown = _to_show(config, context)
    share = Share(session, config.name, -(-config.num_problems // PER_PART))
    longest = _longest(config, context, shown)
    if share.numbers or config.engine.kind != "local":  # servers are found by all processes together
        writer, solver = _hands(config, context, longest)
        old = HeldOut(shown, context.contamination)
        for done, number in enumerate(share.numbers):
            session.progress(done, len(share.numbers), "parts")
            numbers = range(number * PER_PART, min((number + 1) * PER_PART, config.num_problems))
            tries = once_each(_written(numbers, config, context, writer, solver, shown, old))
            tries = _answered(tries, config, context, solver)
            write_json(session.parts / TRIES / f"{number:05d}.json", [asdict(t) for t in tries])
            share.done(number, {})
    share.conclude()
    if PartialState().is_main_process:
        _keep(config, context, shown)


def _to_show(config: Invent, context: Context) -> list[Problem]:
    items = context.items(config.problems, to_judge=False)
    shown = [item.problem for item in items if item.problem.verifier == VERIFIER]
    if len(shown) < config.examples:
        raise UserError(
            f"{len(shown)} of the {len(items)} problems of {', '.join(config.problems)} have a math answer, and "
            f"{config.examples} are shown for each new one; expected as many: add problems, or lower examples"
        )
    return shown


def _task(number: int, config: Invent, context: Context, shown: Sequence[Problem]) -> Problem:
    """What a try begins with, by its place alone: old problems in a prompt, and how the first of them is judged."""
    place = f"{config.name}/{number}/written"
    drawn = random.Random(f"{context.session.seed} {place}").sample(shown, config.examples)
    judged = {k: v for k, v in drawn[0].reference.items() if k != "answer"}
    return Problem(place, writing_prompt(config.prompt, drawn), VERIFIER, judged)


def _posed(one: Try, config: Invent) -> Problem:
    return Problem(f"{config.name}/{one.number}", one.question, VERIFIER, one.reference, config.name)


def _whole(prompting: Prompting) -> Prompting:
    """The same for a text that has the template of problems in itself; the turns of a chat stay."""
    config = prompting.config.model_copy(update={"template": "{prompt}"})
    return Prompting(prompting.tokenizer, config, prompting.eos_ids)


def _longest(config: Invent, context: Context, shown: Sequence[Problem]) -> int:
    """Tokens of the longest writing prompt and its question, of the tries of all processes."""
    prompting, state = _whole(context.prompting(config.model)), PartialState()
    own = range(state.process_index, config.num_problems, state.num_processes)
    tasks = (_task(number, config, context, shown) for number in own)
    most = max((len(prompting.prompt_ids(task.prompt)) for task in tasks), default=1)
    return max(from_everyone(most)) + config.max_tokens


def _hands(config: Invent, context: Context, longest: int) -> tuple[Hand, Hand]:
    """Who writes and who answers, through one engine where that is one model."""
    solving = context.prompting(config.solver or config.model)
    room = len(solving.prompt_ids("")) + 2 * config.max_tokens

    def engine(model: str, most: int) -> Any:
        return make_engine(model, context, most, config.num_slots, config.engine)

    writer = engine(config.model, longest if config.solver else max(longest, room))
    solver = engine(config.solver, room) if config.solver else writer
    return (
        Hand("writer", writer, _whole(context.prompting(config.model)), longest),
        Hand("solver", solver, solving, room),
    )


def _written(
    numbers: Sequence[int], config: Invent, context: Context, writer: Hand, solver: Hand, shown: Sequence[Problem], old: HeldOut
) -> Iterator[Try]:  # fmt: skip
    """A question of each number, or why there is none."""
    tasks = [_task(number, config, context, shown) for number in numbers]
    added = solver.prompting.tokenizer.added_tokens_decoder.values()
    marks = [token.content for token in added if token.special]
    for number, task, nodes in zip(numbers, tasks, writer.draw(tasks, 1, config, context), strict=True):
        question, dropped = question_of(writer.text(nodes[0]), nodes[0].stop_reason == "length", marks)
        if not dropped and old.matches(question):
            dropped = "old"
        if not dropped and context.held_out is not None and context.held_out.matches(question):
            dropped = "contaminated"
        if not dropped and len(solver.prompting.prompt_ids(question)) + config.max_tokens > solver.longest:
            dropped = "long"
        yield Try(number, question, dropped, task.reference)


def _answered(tries: Sequence[Try], config: Invent, context: Context, solver: Hand) -> list[Try]:
    """The tries, of which those with a new question have votes on its answer."""
    asked = [one for one in tries if not one.dropped]
    posed = [_posed(one, config) for one in asked]
    drawn = solver.draw(posed, config.num_answers, config, context)
    found = {one.number: one for one in tries}
    for one, problem, nodes in zip(asked, posed, drawn, strict=True):
        answers = [read_answer(problem, solver.text(node)) for node in nodes]
        found[one.number] = voted(one, problem, answers, config.agreement)
    return list(found.values())


def _keep(config: Invent, context: Context, shown: Sequence[Problem]) -> None:
    """Write what all parts give together, where a question may repeat one of another part."""
    session = context.session
    assert session.parts is not None
    files = sorted((session.parts / TRIES).glob("*.json"))
    tries = once_each(Try(**row) for file in files for row in read_json(file))
    kept = [one for one in tries if not one.dropped]
    counts = counted(tries)
    if kept:
        counts |= diversity([one.question for one in kept], [old.prompt for old in shown])._asdict()
    session.log({f"invent/{key}": value for key, value in counts.items()}, 0)
    if not kept:
        dropped = {why.removeprefix("dropped_"): n for why, n in counts.items() if "dropped" in why and n}
        raise UserError(
            f"none of the {len(tries)} problems that {config.name} tried is kept: "
            f"{', '.join(f'{n} {why}' for why, n in dropped.items())}; expected one at least: raise num_problems, lower "
            "agreement, or change the prompt"
        )
    file = made_file(context.out, config.name)
    write_text(file, _lines([_row(one, config) for one in kept]))
    write_text(file.with_name(f"{TRIES}.jsonl"), _lines([asdict(one) for one in tries]))


def _row(one: Try, config: Invent) -> dict[str, Any]:
    """A kept problem as the source jsonl reads it; `agreement` is the share of the votes behind its answer."""
    problem = asdict(replace(_posed(one, config), source=f"written by {config.model}"))
    return {**problem, "agreement": one.share}


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
