"""What a run has cost: tokens, FLOPs, verdicts and bytes per (stage, model); seconds, processes and price per stage."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reasoner.registry import UserError
from reasoner.store import read_json, write_json
from reasoner.watchdog import beat

COUNTERS = (
    "prefilled",  # prompt or prefix tokens run through the model to fill its KV cache
    "reused",  # prefix tokens whose KV was in the cache already
    "decoded",  # tokens sampled
    "scored",  # tokens run forward only to read log-probabilities or rewards
    "trained",  # tokens run forward and backward
    "forwards",  # calls of the model
    "slots_busy",  # rows that decoded, summed over decode steps
    "slots_idle",  # rows that had nothing to decode, summed over decode steps
    "flops",  # floating-point operations, by `flops`
    "verifications",  # verdicts asked for
    "verifier_seconds",  # core seconds that they took
    "seconds_waiting",  # in which nothing was decoded any more and verdicts were missing
    "bytes_written",  # of models, trees, records and metrics
    "trajectories_generated",  # root-to-leaf paths finished
    "trajectories_kept",  # of these, the ones that went into training or an answer
)


def flops(num_params: int, tokens: int, training: bool) -> int:
    """FLOPs of a transformer: 2N per token forward, 6N with backward (Kaplan et al. 2020, section 2.1).

    There N leaves out the embeddings; attention over the context is left out too.
    """
    return (6 if training else 2) * num_params * tokens


@dataclass
class Ledger:
    """Counts by stage, model and counter, over all processes; by stage wall seconds, processes and dollars."""

    counts: dict[str, dict[str, dict[str, int | float]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    processes: dict[str, int] = field(default_factory=dict)
    dollars: dict[str, float] = field(default_factory=dict)
    _stage: str | None = field(default=None, init=False, repr=False, compare=False)
    _begun: float = field(default=0.0, init=False, repr=False, compare=False)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Book what happens inside, and its wall seconds, under `name`; stages don't nest."""
        if self._stage is not None:
            raise ValueError(
                f"got stage {name!r} inside {self._stage!r}, expected one at a time; leave the first"
            )
        self._stage, self._begun = name, time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - self._begun
            self._stage = None

    def add(self, model: str, **counters: int | float) -> None:
        """Add to `model`'s counters in the present stage; ValueError for a name that is not in COUNTERS. A sign of life."""
        beat()
        if self._stage is None:
            raise ValueError(
                f"got counts of {model!r} outside a stage, expected `with ledger.stage(name):` around"
            )
        for name, number in counters.items():
            if name not in COUNTERS:
                raise ValueError(
                    f"got the counter {name!r}, expected one of {', '.join(COUNTERS)}; rename it"
                )
            if not number >= 0:
                raise ValueError(f"got {name}={number}, expected 0 or more; counters only grow")
        booked = self.counts.setdefault(self._stage, {}).setdefault(model, {})
        for name, number in counters.items():
            booked[name] = booked.get(name, 0) + number

    def spent(self) -> tuple[dict[str, dict[str, int | float]], float]:
        """The present stage's counts by model, and the seconds since this process began it."""
        assert self._stage is not None
        booked = self.counts.get(self._stage, {})
        return {
            model: dict(counters) for model, counters in booked.items()
        }, time.perf_counter() - self._begun

    def total(self, counter: str) -> int | float:
        """A counter over all stages and models, or "seconds" over all stages."""
        if counter == "seconds":
            return sum(self.seconds.values())
        if counter not in COUNTERS:
            raise ValueError(
                f"got the counter {counter!r}, expected seconds or one of {', '.join(COUNTERS)}; rename it"
            )
        return sum(booked.get(counter, 0) for models in self.counts.values() for booked in models.values())

    def gather(self, stage: str, ranks: Sequence[dict[str, Any]]) -> None:
        """Set a stage to what all ranks booked in it (`to_dict` of each): counts add up, of seconds the most count.

        A rank is one process, but for one that says of how many the work was.
        """
        total: dict[str, dict[str, int | float]] = {}
        for rank in ranks:
            for model, counters in rank["counts"].get(stage, {}).items():
                booked = total.setdefault(model, {})
                for name, number in counters.items():
                    booked[name] = booked.get(name, 0) + number
        if total:
            self.counts[stage] = total
        self.seconds[stage] = max(rank["seconds"].get(stage, 0.0) for rank in ranks)
        self.processes[stage] = sum(rank["processes"].get(stage, 1) for rank in ranks)

    def busy(self, stage: str) -> float:
        """Seconds of all processes together in which they did not wait for verdicts."""
        models = self.counts.get(stage, {}).values()
        waiting = sum(booked.get("seconds_waiting", 0) for booked in models)
        return max(0.0, self.seconds.get(stage, 0.0) * self.processes.get(stage, 1) - waiting)

    def to_dict(self) -> dict[str, Any]:
        """{"counts": {stage: {model: {counter: number}}}, "seconds": {stage: seconds}}, and processes and dollars alike."""
        return {name: asdict(self)[name] for name in ("counts", "seconds", "processes", "dollars")}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Ledger:
        """The ledger that `to_dict` was called on; one of an older version knew no processes and no price."""
        more = {name: dict(data.get(name, {})) for name in ("processes", "dollars")}
        return cls(**Ledger(data["counts"], data["seconds"], **more).to_dict())

    def resume(self, saved: dict[str, Any], seconds: float) -> None:
        """Go on in the present stage with the counts that `to_dict` gave in it, and the seconds that it had taken."""
        if self._stage is None:
            raise ValueError(
                "got counts to resume outside a stage, expected `with ledger.stage(name):` around"
            )
        self.counts[self._stage] = dict(saved["counts"].get(self._stage, {}))
        self.seconds[self._stage] = seconds

    def save(self, path: str | Path) -> None:
        """Write as JSON; atomic."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Ledger:
        """The ledger that `save` wrote; a damaged one is a UserError."""
        try:
            return cls.from_dict(read_json(path))
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            raise UserError(
                f"got {path}, which cannot be read ({type(problem).__name__}: {problem}); expected a run's costs: restore "
                "it, or remove it to go on without the costs so far"
            ) from problem
