"""metrics.jsonl, and wandb where it is asked for, behind one `log`. The only module that imports wandb."""

from __future__ import annotations

import json
import time
import typing
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasoner.store import saying_what_is_full, to_json, write_text


class Tracker:
    """Logs metrics to `folder`/metrics.jsonl, and to wandb where `wandb` has its options; a context manager.

    `wandb` is passed to `wandb.init` as it is, e.g. {"project": "p", "mode": "offline"}. `resume_step` is the
    step that a resumed run restarts from: lines beyond it are cut, since they will be logged again, and so are
    all where it is 0. What is logged again all the same, at a step that stayed, is left out. Ranks other than
    the main one get a tracker that does nothing.
    """

    def __init__(
        self,
        folder: str | Path,
        wandb: Mapping[str, Any] | None = None,
        resume_step: int | None = None,
        main: bool = True,
    ):
        self._file = None
        self._run = None
        self._known: Counter[tuple[int, frozenset[str]]] = (
            Counter()
        )  # lines from before, not logged again yet
        if not main:
            return
        path = Path(folder) / "metrics.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._known.update(_cut(path, resume_step))
        self._file = path.open("ab", buffering=0)  # nothing stays in memory
        if wandb is not None:
            self._run = _wandb_run(path.parent, wandb)

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
            self._run.log(dict(metrics), step=step)

    def _write(self, line: bytes) -> None:
        assert self._file is not None
        with saying_what_is_full(Path(self._file.name)):
            while line:
                line = line[self._file.write(line) :]

    def close(self, exit_code: int = 0) -> None:
        """Close the file and finish the wandb run, as failed if `exit_code` is not 0."""
        if self._file is not None:
            self._file.close()
        if self._run is not None:
            self._run.finish(exit_code=exit_code)

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.close(exit_code=0 if kind is None else 1)


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
        except (ValueError, KeyError, AttributeError):
            continue  # torn by a power cut
        if resume_step is None or 0 < resume_step >= step:
            kept.append(line)
            found.append((step, names))
    if len(kept) < len(whole) or torn:
        write_text(path, "".join(f"{line.decode('utf-8')}\n" for line in kept))
    return [] if resume_step is None else found


def _wandb_run(folder: Path, options: Mapping[str, Any]) -> Any:
    import wandb

    # The same id on every start, so that a resumed run goes on in its own chart.
    id_path = folder / "wandb_id"
    known = {"id": id_path.read_text(encoding="utf-8"), "resume": "allow"} if id_path.exists() else {}
    run = wandb.init(**{"dir": str(folder), **known, **options})
    write_text(id_path, run.id)
    return run
