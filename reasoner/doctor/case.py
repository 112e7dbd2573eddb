"""What is examined: a config with its problems, tokenizer and models, each looked up once and only when asked for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from reasoner.data.prompting import Prompting
from reasoner.data.rows import Item, SourceConfig
from reasoner.data.sources import load_items
from reasoner.doctor.machine import Machine, this_machine
from reasoner.pipeline import measured_on
from reasoner.planning.lengths import GENERATED, READ, prompting_of
from reasoner.planning.models import config_from, origin
from reasoner.policy.models import TinyModel, base_of
from reasoner.run_config import RunConfig
from reasoner.stages.references import NamesProblems, named

QUICKLY = 300  # rows of a file that are read at the start of a run
COUNTED = 600  # items of a problem set whose tokens are counted


@dataclass(frozen=True)
class Lengths:
    """In tokens, of the items of a stage's problem sets: prompts, worked solutions with their end, and both together."""

    prompts: list[int]
    solutions: list[int]
    demonstrations: list[int]


@dataclass
class Case:
    """A config under examination; `quickly` reads little and makes nothing."""

    config: RunConfig
    quickly: bool = False
    path: Path | None = None
    overrides: list[str] = field(default_factory=list)
    told: dict[str, list[str]] = field(default_factory=dict)  # by problem set, what reading it warned of
    promptings: dict[str, Prompting | None] = field(default_factory=dict)  # by where the architecture is from
    counted: dict[tuple[int, tuple[str, ...]], Lengths] = field(default_factory=dict)  # by prompting and sets

    @cached_property
    def machine(self) -> Machine:
        return this_machine(Path(self.config.out))

    def stages(self) -> Iterator[tuple[str, Any]]:
        """(dotted key, stage)."""
        yield from ((f"stages.{i}", stage) for i, stage in enumerate(self.config.stages))

    @cached_property
    def origins(self) -> dict[str, TinyModel | str]:
        """By stage, where its architecture is from."""
        earlier: dict[str, Any] = {}
        found: dict[str, TinyModel | str] = {}
        for stage in self.config.stages:
            found[stage.name] = origin(stage, earlier)
            earlier[stage.name] = stage
        return found

    def architecture(self, stage: Any) -> Any | None:
        """The stage's Hugging Face config; None where it runs no model, or one that is not on this machine."""
        found = self.origins[stage.name]
        if isinstance(found, TinyModel):
            return config_from(found)
        return config_from(found) if found and Path(found).is_dir() else None

    @cached_property
    def model(self) -> tuple[str, str]:
        """(dotted key, folder) of the first model that is on this machine; empty where there is none."""
        for key, stage in self.stages():
            found = self.origins[stage.name]
            if isinstance(found, str) and found and Path(found).is_dir():
                return f"{key}.model" if hasattr(stage, "model") else f"{key}.policies", found
        return "", ""

    @cached_property
    def base(self) -> str:
        return base_of(self.model[1]) if self.model[1] else ""

    @cached_property
    def items(self) -> dict[str, list[Item]]:
        """The first problems of each set; what is on the hub is left out, quickly also what would have to be made."""
        found: dict[str, list[Item]] = {}
        for name, sources in self.config.problems.items():
            found[name] = []
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                for source in filter(self.reads, sources):
                    most = min(source.size, QUICKLY if self.quickly else READ)
                    found[name] += load_items(source.model_copy(update={"size": most}))
            self.told[name] = [str(w.message) for w in said]
        return found

    def reads(self, source: SourceConfig) -> bool:
        """Whether its problems are looked at."""
        return bool(source.path) or (source.name in GENERATED and not self.quickly)

    def is_generated(self, name: str) -> bool:
        return all(not source.path for source in self.config.problems[name])

    @cached_property
    def prompting(self) -> Prompting | None:
        """How the first model is prompted; None where no tokenizer is at hand."""
        return self._prompting_of(next((o for o in self.origins.values() if o), ""))

    def _prompting_of(self, origin: TinyModel | str) -> Prompting | None:
        key = origin if isinstance(origin, str) else origin.model_dump_json()
        if key not in self.promptings:
            skipped = not origin or (isinstance(origin, TinyModel) and self.quickly)
            self.promptings[key] = None if skipped else prompting_of(origin, self.config.prompt, self.items)
        return self.promptings[key]

    def lengths(self, stage: Any) -> Lengths | None:
        """Of the stage's problems, as its own model is prompted; None without a tokenizer or problems."""
        prompting, names = self._prompting_of(self.origins[stage.name]), tuple(getattr(stage, "problems", ()))
        if prompting is None or not any(self.items.get(n) for n in names):
            return None
        key = (id(prompting), names)
        if key not in self.counted:
            items = [i for n in names for i in self.items.get(n, ())[:COUNTED]]
            prompts = [len(prompting.prompt_ids(i.problem.prompt)) for i in items]
            solutions = [len(prompting.completion_ids(i.solution)) if i.solution else 0 for i in items]
            both = [p + s for p, s in zip(prompts, solutions, strict=True) if s]
            self.counted[key] = Lengths(prompts, [n for n in solutions if n], both)
        return self.counted[key]

    @cached_property
    def solutions(self) -> list[tuple[str, Item]]:
        """(problem set, item) of the first items with a worked solution."""
        return [(name, i) for name, items in self.items.items() for i in items[:QUICKLY] if i.solution]

    @property
    def measured_on(self) -> tuple[str, ...]:
        return tuple(name for name in measured_on(self.config) if name in self.config.problems)

    def judged(self) -> list[str]:
        """Problem sets whose answers some stage judges."""
        names = {n for s in self.config.stages for _, m, n in named(s, NamesProblems) if m.judged}
        return [n for n in self.config.problems if n in names]


def draws(stage: Any) -> bool:
    """Whether answers are drawn in a stage and then learned from."""
    return hasattr(stage, "tree") and hasattr(stage, "problems")


WHOLE = ("init", "sft", "distill", "verify", "invent")  # kinds to which an answer is one whole
OUTCOMES = ("rloo", "grpo", "dr_grpo", "maxrl", "shrunk")  # methods whose advantages are of whole answers


def reads_steps(stage: Any) -> bool:
    """Whether it matters to a stage where the steps of an answer end; of a kind that is not known here, it may."""
    if stage.kind in WHOLE:
        return False
    if stage.kind == "evaluate":
        return bool(stage.prm or stage.methods)
    if stage.kind == "ppo":
        branches = getattr(stage.tree, "num_points", 1) > 0
        return bool(branches or stage.prm or stage.starts or stage.advantage.method not in OUTCOMES)
    return True
