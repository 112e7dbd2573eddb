"""Before the stages of a run: the most memory that each needs on a device, beside what is free there.

Only what can't fit by far is refused: a prediction is within 15 % of what is measured on small models, and whoever
knows better is not held up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reasoner.data.prompting import PromptConfig
from reasoner.data.rows import SourceConfig
from reasoner.economics.hardware import Hardware, hardware_table
from reasoner.economics.shape import count_parameters
from reasoner.planning.answers import Facts
from reasoner.planning.free import Free
from reasoner.planning.lengths import ProblemSet, counters, measure_sets, prompting_of, read_sets
from reasoner.planning.models import config_from, origin
from reasoner.planning.needs import Need, nearest_fit, need_of
from reasoner.planning.of_model import gigabytes
from reasoner.planning.work import Work, work_of
from reasoner.policy.models import TinyModel
from reasoner.registry import UserError

ROWS = 100  # of a source, that are read
TIGHT = 0.9  # share of what is free from which it is worth a word
FAR = 1.5  # times what is free, from which a stage is not begun


@dataclass(frozen=True)
class Peak:
    """What a stage needs at its peak on one device of `hardware`, whose memory is what is free."""

    stage: Any
    number: int
    config: Any
    given: ProblemSet
    work: Work
    hardware: Hardware
    need: Need

    @property
    def is_tight(self) -> bool:
        return self.need.total > TIGHT * self.hardware.device_bytes

    @property
    def is_over(self) -> bool:
        return self.need.total > self.hardware.device_bytes

    def nearest(self) -> str:
        """The nearest choice that fits; empty where there is none."""
        return nearest_fit(self.stage, self.config, self.given, self.hardware, hardware_table(), self.work)

    def told(self) -> str:
        room = (
            f"{gigabytes(self.need.total)} at its peak, and {gigabytes(self.hardware.device_bytes)} are free"
        )
        return f"{self.stage.name} needs about {room}"


def facts_of(
    stages: Iterable[Any], sets: Mapping[str, ProblemSet], done: dict[str, Work] | None = None
) -> Facts:
    """Answers are as long as the worked solutions, or as max_tokens allows where there are none."""
    shown = [s.solution for s in sets.values() if s.solution]
    usual = sum(shown) / len(shown) if shown else 1e9
    return Facts(sets, lambda most: min(usual, most), {s.name: s for s in stages}, done or {})


def peaks(
    stages: Sequence[Any],
    facts: Facts,
    config_of: Callable[[Any], Any | None],
    hardware_of: Callable[[Any], Hardware],
) -> Iterator[Peak]:
    """Of the stages that run a model whose config `config_of` finds; `hardware_of` is told that config."""
    done: dict[str, Work] = {}
    for number, stage in enumerate(stages):
        work = work_of(stage, replace(facts, done=done)) or Work()
        done[stage.name] = work
        config = config_of(stage)
        if config is None:
            continue
        names = [n for n in getattr(stage, "problems", ()) or facts.sets if n in facts.sets]
        known = [facts.sets[n] for n in names] or [ProblemSet(0, 0, 0, work.sequence, 0)]
        given = max(known, key=lambda s: s.longest_prompt)
        hardware = hardware_of(config)
        need = need_of(stage, config, given, hardware, work)
        if need is not None:
            yield Peak(stage, number, config, given, work, hardware, need)


def check_memory(
    stages: Sequence[Any],
    problems: Mapping[str, Sequence[SourceConfig]],
    prompt: PromptConfig,
    free: Free,
    is_done: Callable[[str], bool] = lambda name: False,
) -> dict[str, str]:
    """By stage that is not done and trains, or draws in this process, a line of its peak.

    A UserError where one cannot fit what is free by far. The first rows of each set are read for their
    lengths. A stage whose model's config is not to be had is left out.
    """
    if all(is_done(s.name) for s in stages):
        return {}
    earlier: dict[str, Any] = {}
    origins: dict[str, TinyModel | str] = {}
    for stage in stages:
        origins[stage.name] = origin(stage, earlier)
        earlier[stage.name] = stage
    first = next((o for o in origins.values() if o), "")
    few = {
        name: [s.model_copy(update={"size": min(s.size, ROWS)}) for s in of] for name, of in problems.items()
    }
    items, _ = read_sets(few)
    prompting = prompting_of(first, prompt, items) if first else None
    facts = facts_of(stages, measure_sets(problems, items, counters(prompting), stages))

    def config_of(stage: Any) -> Any | None:
        if is_done(stage.name) or not origins[stage.name]:
            return None
        try:
            config = config_from(origins[stage.name])
            count_parameters(config)
        except Exception:  # whatever a model's own code raises: the stage itself will say what is wrong
            return None
        return config

    lines = {}
    for peak in peaks(stages, facts, config_of, free.hardware):
        _check_fits(peak, free)
        engine = getattr(peak.stage, "engine", None)
        if hasattr(peak.stage, "optimizer") or (engine is not None and engine.kind == "local"):
            near = peak.nearest() if peak.is_tight else ""
            lines[peak.stage.name] = f"memory: {peak.told()}" + (
                f"; the nearest choice that fits: {near}" if near else ""
            )
    return lines


def _check_fits(peak: Peak, free: Free) -> None:
    if peak.need.total <= FAR * (peak.hardware.device_bytes + free.swap):
        return
    near = peak.nearest()
    todo = (
        f"the nearest choice that does: {near}"
        if near
        else "no choice of its keys does: take a smaller model"
    )
    raise UserError(f"stage {peak.told()}; expected a stage that fits: {todo}")
