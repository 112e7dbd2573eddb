"""metrics.jsonl, and wandb where it is asked for, behind one `log`. The only module that imports wandb."""

from __future__ import annotations

import json
import time
import typing
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reasoner.registry import UserError
from reasoner.store import saying_what_is_full, to_json, write_text


class Tracker:
    """Logs a stage's metrics to `folder`/metrics.jsonl, and to a wandb run where there is one; a context manager.

    `resume_step` is the step that a resumed run restarts from: lines beyond it are cut, since they will be logged
    again, and so are all where it is 0. What is logged again all the same, at a step that stayed, is left out. Ranks
    other than the main one get a tracker that does nothing.
    """

    def __init__(
        self, folder: str | Path, wandb_run: Any = None, resume_step: int | None = None, main: bool = True
    ):
        self._file = None
        self._stage = Path(folder).name
        self._run = wandb_run if main else None
        # lines from before, not logged again yet
        self._known: Counter[tuple[int, frozenset[str]]] = Counter()
        if not main:
            return
        path = Path(folder) / "metrics.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._known.update(_cut(path, resume_step))
        self._file = path.open("ab", buffering=0)  # nothing stays in memory
        if self._run is not None:
            # each stage counts its own steps, and wandb's one counter only grows
            self._run.define_metric(f"{self._stage}/*", step_metric=f"{self._stage}/step")

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Write one line: `step`, `time` (Unix seconds) and the metrics; NaN and infinities become null."""
        if self._file is None:
            return
        taken = {"step", "time"} & metrics.keys()
        if taken:
            raise ValueError(
                f"got a metric called {min(taken)!r}, expected another name; the line has its own"
            )
        line = (step, frozenset(metrics))
        if self._known[line]:
            self._known[line] -= 1
            return
        self._write((to_json({"step": step, "time": time.time(), **metrics}) + "\n").encode())
        if self._run is not None:
            numbers = {
                k.rpartition("/")[2]: x for k, x in metrics.items() if not isinstance(x, str | list | dict)
            }
            self._run.log({f"{self._stage}/{name}": x for name, x in {**numbers, "step": step}.items()})

    def _write(self, line: bytes) -> None:
        assert self._file is not None
        with saying_what_is_full(Path(self._file.name)):
            while line:
                line = line[self._file.write(line) :]

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()


def _cut(path: Path, resume_step: int | None) -> list[tuple[int, frozenset[str]]]:
    """Drop lines beyond `resume_step`, and what is no line; returns the step and the metrics of each that stays."""
    if not path.exists():
        return []
    *whole, torn = path.read_bytes().split(b"\n")
    kept: list[bytes] = []
    found: list[tuple[int, frozenset[str]]] = []
    for line in whole:
        try:
            row = json.loads(line)
            step, names = row.pop("step"), frozenset(row.keys() - {"time"})
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # torn by a power cut
        if resume_step is None or 0 < resume_step >= step:
            kept.append(line)
            found.append((step, names))
    if len(kept) < len(whole) or torn:
        write_text(path, "".join(f"{line.decode('utf-8')}\n" for line in kept))
    return [] if resume_step is None else found


@contextmanager
def wandb_run(
    out: Path, options: Mapping[str, Any] | None, config: Mapping[str, Any], group: str
) -> Iterator[Any]:
    """The wandb run of a run's folder: named after it, with its config, and the same one on every start; None without options.

    `options` go to wandb.init as they are, over ours, e.g. {"project": "p", "mode": "offline"}. It is finished as failed
    on an exception. A wandb that cannot start is a UserError.
    """
    if options is None:
        yield None
        return
    import wandb

    id_path = out / "wandb_id"
    known = {"id": id_path.read_text(encoding="utf-8"), "resume": "allow"} if id_path.exists() else {}
    # the terminal's bars are no log
    settings = wandb.Settings(console="off")
    ours = {"dir": str(out), "name": out.name, "group": group, "config": dict(config), "settings": settings}
    try:
        run = wandb.init(**{**ours, **known, **options})
    except (wandb.Error, TypeError, ValueError) as problem:
        raise UserError(
            f"wandb did not start ({' '.join(str(problem).split())[:200]}); expected a login and a network, or "
            "wandb={mode: offline}, or no wandb key"
        ) from problem
    write_text(id_path, run.id)
    try:
        yield run
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()
