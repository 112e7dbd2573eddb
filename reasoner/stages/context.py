"""What stages share: the run's folder, its problem sets, and how models, trees and records of other stages are found.

A stage's models go to models/<stage>, its trees to trees/<stage>, its records to records/<stage>/<kind>.
A stage that needs an earlier one's output names that stage; a model may also be a folder or a hub name.
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState

from reasoner.data.golds import Unreadable, each_judgeable
from reasoner.data.prompting import PromptConfig, Prompting, load_prompting
from reasoner.data.repeats import distinct, text_key
from reasoner.data.sources import Item, SourceConfig, each_item, own_ids
from reasoner.data.splits import ContaminationConfig, HeldOut, Match
from reasoner.data.spool import Spool, spool
from reasoner.engine.connect import EngineConfig
from reasoner.engine.local import LocalEngine
from reasoner.engine.remote import RemoteEngine
from reasoner.engine.weights import PROBE
from reasoner.policy.adapters import load_merged
from reasoner.policy.machine import own_device
from reasoner.records import SFTExample
from reasoner.registry import UserError
from reasoner.seal import sha256
from reasoner.store import read_json, read_trees, write_json, write_text
from reasoner.trainers.gates import check_room
from reasoner.trainers.loop import Session
from reasoner.trainers.ranks import wait_for_everyone
from reasoner.trainers.sampler import open_sampler
from reasoner.tree import Problem, Tree

R = TypeVar("R")
Order = Callable[["Context", Mapping[str, Sequence[int]]], Iterable[tuple[str, int]]]


@dataclass
class Context:
    """What stages share: the run's folder, its problem sets, how to prompt, and the session of the present stage."""

    out: Path
    problems: dict[str, list[SourceConfig]]
    prompt: PromptConfig
    session: Session
    contamination: ContaminationConfig = field(default_factory=lambda: ContaminationConfig())
    measured_on: tuple[str, ...] = ("test",)  # problem sets of which nothing is trained on
    is_told: bool = False  # what was logged when the problems of this stage were spooled

    def items(self, names: list[str], to_judge: bool = True) -> list[Item]:
        """The items of the named sets, distinct by prompt, without any that holds a problem of a set that is measured on.

        To learn from, a problem that is there in two ways of writing counts once; what is measured on stays as it is.

        Where answers to them will be judged, those whose reference the verifier cannot read are left out as well.
        """
        return own_ids(self._usable(names, to_judge))

    def spooled(self, names: list[str], order: Order, apart: bool = False) -> Spool:
        """The problems of `items(names)` that `order` takes, in a file that all processes read.

        It gets the numbers of all problems, each set's `apart` or those of all sets together under "", and gives pairs of such
        a name and a number. What is logged meanwhile is logged again by a stage that goes on with the file.
        """
        assert self.session.parts is not None
        path = self.session.parts / "problems.jsonl"
        whole, told = path.with_suffix(".sha256"), path.with_suffix(".told")
        if PartialState().is_main_process:
            is_there = path.is_file() and whole.is_file() and told.is_file()
            if not (is_there and whole.read_text(errors="replace") == sha256(path)):
                notes: list[Mapping[str, Any]] = []

                def log(metrics: Mapping[str, Any], step: int) -> None:
                    notes.append(metrics)
                    self.session.log(metrics, step)

                noting = replace(self, session=replace(self.session, log=log))
                noting._spool(path, names, order, apart)
                write_json(told, notes)
                write_text(whole, sha256(path))
            elif not self.is_told:
                for metrics in read_json(told):
                    self.session.log(metrics, 0)
            self.is_told = True
        wait_for_everyone()
        return Spool(path)

    def _spool(self, path: Path, names: list[str], order: Order, apart: bool) -> None:
        first = self._first_sets(names) if apart else {}
        numbers = {name: array("q") for name in (names if apart else [""])}

        def problems() -> Iterator[Problem]:
            for number, item in enumerate(self._usable(names, True)):
                numbers[first[text_key(item.problem.prompt)] if apart else ""].append(number)
                yield item.problem

        spool(path, problems(), lambda: order(self, numbers))

    def by_set(self, names: list[str], items: Iterable[Item]) -> dict[str, list[Item]]:
        """Items of the named sets by the first set that holds their prompt."""
        first = self._first_sets(names)
        found: dict[str, list[Item]] = {name: [] for name in names}
        for item in items:
            found[first[text_key(item.problem.prompt)]].append(item)
        return found

    def _first_sets(self, names: list[str]) -> dict[bytes, str]:
        first: dict[bytes, str] = {}
        for name in names:
            for item in self._set(name):
                first.setdefault(text_key(item.problem.prompt), name)
        return first

    def _usable(self, names: list[str], to_judge: bool) -> Iterator[Item]:
        """One after the other, under the ids that they come with; none at all is a UserError."""
        learned, alike = not set(names) & set(self.measured_on), list[Item]()
        given = (item for name in names for item in self._set(name))
        items: Iterable[Item] = distinct(given, alike if learned else None)  # benchmarks stay as published
        if to_judge:
            items = self._judgeable(items)
        if learned:
            items = self.clean(items, lambda i: (i.problem.prompt, i.solution or ""))
        is_some = False
        for item in items:
            is_some = True
            yield item
        if alike:
            self.session.log({"alike": len(alike), "alike_problems": [i.problem.id for i in alike]}, 0)
        if not is_some:
            raise UserError(
                f"the problem sets {', '.join(names)} are empty once test problems are left out; expected at least one"
            )

    def _judgeable(self, items: Iterable[Item]) -> Iterator[Item]:
        unreadable: list[Unreadable] = []
        is_some = False
        for item in each_judgeable(items, unreadable):
            is_some = True
            yield item
        if unreadable:
            shown = ", ".join(f"{u.problem_id} ({u.reason})" for u in unreadable[:5])
            self.session.log(
                {"unreadable": len(unreadable), "unreadable_problems": [u._asdict() for u in unreadable]}, 0
            )
            if PartialState().is_main_process:
                told = f"left out, for no answer could be judged: {len(unreadable)} problems: {shown}"
                print(told, file=sys.stderr)
        if not is_some and unreadable:
            raise UserError(
                f"none of {len(unreadable)} problems has a reference that can be read, such as "
                f"{unreadable[0].problem_id}: {unreadable[0].reason}; correct the answers"
            )

    def clean(self, rows: Iterable[R], texts: Callable[[R], tuple[str, str]]) -> Iterator[R]:
        """The rows whose texts (prompt, the rest) hold no problem of a set that is measured on; the others are logged."""
        held_out = self.held_out
        if held_out is None:
            yield from rows
            return
        dropped: list[Match] = []
        for row in rows:
            found = held_out.matches(*texts(row))
            if found:
                dropped.append(found[0])
            else:
                yield row
        how = Counter(match.how for match in dropped)
        shown = {f"contamination/{kind}": how[kind] for kind in ("exact", "normalised", "ngram")}
        self.session.log({**shown, "contamination": [m._asdict() for m in dropped]}, 0)

    @cached_property
    def held_out(self) -> HeldOut | None:
        """The problems of the sets that are measured on; None where there are none."""
        names = [name for name in self.measured_on if name in self.problems]
        if not names:
            return None
        return HeldOut((item.problem for name in names for item in self._set(name)), self.contamination)

    def _set(self, name: str) -> Iterator[Item]:
        if name not in self.problems:
            raise UserError(
                f"problem set {name!r} is not there; expected one of {', '.join(self.problems) or 'none'}"
            )
        for source in self.problems[name]:
            yield from each_item(source)

    def model(self, name: str) -> str:
        """The folder of a stage's model, or the name itself: a folder or a hub name."""
        folder = self.out / "models" / name
        return str(folder / "model") if (folder / "model").is_dir() else name

    def prompting(self, model: str) -> Prompting:
        return load_prompting(self.model(model), self.prompt)

    def trees(self, stage: str) -> list[Tree]:
        return list(read_trees(self.out / "trees" / stage))


def examples(names: list[str], context: Context, prompting: Prompting) -> list[SFTExample]:
    """The worked solutions of problem sets; problems without one are left out and counted, none at all is a UserError."""
    items = context.items(names, to_judge=False)
    without = sum(not i.solution for i in items)
    if without == len(items):
        raise UserError(
            f"none of the {without:,} problems of {', '.join(names)} has a worked solution to imitate; expected text under "
            '"solution" beside prompt and answer in the rows, or a source that has solutions'
        )
    if without:
        context.session.log({"without_solution": without}, 0)
    return [
        SFTExample(
            i.problem.id, i.problem.prompt, i.solution, prompting.prompt_ids(i.problem.prompt),
            prompting.completion_ids(i.solution), i.problem.source, i.problem.licence,
        )
        for i in items
        if i.solution
    ]  # fmt: skip


def make_engine(
    model: str, context: Context, longest: int, num_slots: int, config: EngineConfig, alone: bool = False
) -> LocalEngine | RemoteEngine:
    """What draws for a stage on this process's device, by its options; servers end with the stage.

    All processes make one together where servers are asked for, or this one `alone`.
    """
    prompting, session = context.prompting(model), context.session
    lm = load_merged(context.model(model)).to(own_device())
    check_room(lm.config, longest)
    return open_sampler(
        config, lm, context.model(model), prompting, longest, num_slots, prompting.prompt_ids(PROBE), session,
        alone=alone,
    )  # fmt: skip


def shuffled(items: list[Item], seed: int):
    return [items[i].problem for i in random_order(len(items), seed).tolist()]


def random_order(num: int, seed: int) -> torch.Tensor:
    """The numbers below `num` in a random order."""
    return torch.randperm(num, generator=torch.Generator().manual_seed(seed))


def turned(order: Sequence[R], by: int) -> list[R]:
    """The order from its place `by` on, and then what stands before it."""
    start = by % max(1, len(order))
    return [*order[start:], *order[:start]]
