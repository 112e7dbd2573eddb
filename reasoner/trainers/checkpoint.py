"""Checkpoints of a training loop: atomic, the newest two kept, enough to end with the same weights after a kill.

A checkpoint is a folder `00012` (the steps done) with `shared.pt` (trained weights, optimizers, schedules), one
`rankN.pt` per process (random states, and what else the loop carries) and `manifest.json` with every file's SHA-256.
Of networks that are cut over the processes, weights and optimizers are in `shards/` instead. It is written under a
temporary name and renamed, so a kill at any moment leaves whole ones only. Weights are those that the optimizers hold:
with adapters, the adapters alone. Any number of processes goes on from it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator

from reasoner.config import Config, decisive
from reasoner.ledger import Ledger
from reasoner.policy.shard import local
from reasoner.registry import UserError
from reasoner.seal import sha256
from reasoner.store import read_json, saying_what_is_full, sync_folder, write_json
from reasoner.trainers.loop import Session
from reasoner.trainers.ranks import highest, wait_for_everyone
from reasoner.trainers.shards import load_shards, save_shards

NUM_KEPT = 2
MANIFEST = "manifest.json"
SHARDS = "shards"  # folder with what is cut over the processes, as torch.distributed.checkpoint writes it
SHARED_OUT = ("own_chains", "buffer")  # variables of a loop of which each process has a part
BY_NUMBER = ("ahead_trees",)  # and of which it has those whose number is its own, counted by the processes

logger = logging.getLogger(__name__)


class Trained(NamedTuple):
    """What holds the state of training: each optimizer with the parameters it updates, and its schedule.

    Where networks are cut over the processes (policy/shard), `sharded` are these, one for each optimizer.
    """

    optimizers: Sequence[Any]
    schedules: Sequence[Any]
    sharded: Sequence[torch.nn.Module] = ()


class Restored(NamedTuple):
    """The steps done, and the loop's own variables on this process."""

    step: int
    loop: dict[str, Any]


def save_checkpoint(
    folder: Path,
    step: int,
    trained: Trained,
    loop: dict[str, Any],
    fingerprint: str,
    accelerator: Accelerator,
) -> None:
    """Write the state after `step` steps; `loop` holds numbers, text, lists and dicts, and may differ by process."""
    _check_finite(trained, step, accelerator)
    whole, temporary = folder / f"{step:05d}", folder / f".{step:05d}.tmp"
    try:
        _save(whole, temporary, step, trained, loop, fingerprint, accelerator)
    except UserError:
        shutil.rmtree(temporary, ignore_errors=True)  # the disk is full: the older ones stay
        raise


def _save(
    whole: Path,
    temporary: Path,
    step: int,
    trained: Trained,
    loop: dict[str, Any],
    fingerprint: str,
    accelerator: Accelerator,
) -> None:
    folder = whole.parent
    if accelerator.is_main_process:
        for leftover in folder.glob(".*.tmp"):
            shutil.rmtree(leftover)
        temporary.mkdir(parents=True)
        _write(temporary / "shared.pt", {
            "weights": [[p.detach() for p in _parameters(o)] for o in _of_all(trained)],
            "optimizers": [o.state_dict() for o in _of_all(trained)],
            "schedules": [s.state_dict() for s in trained.schedules],
        })  # fmt: skip
    wait_for_everyone()
    if trained.sharded:
        save_shards(temporary / SHARDS, trained.sharded, trained.optimizers)
    _write(temporary / f"rank{accelerator.process_index}.pt", {"random": random_states(), "loop": loop})
    wait_for_everyone()
    if accelerator.is_main_process:
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        sums = {p.relative_to(temporary).as_posix(): sha256(p) for p in files}
        write_json(temporary / MANIFEST, {"step": step, "fingerprint": fingerprint, "sha256": sums})
        shutil.rmtree(whole, ignore_errors=True)
        os.replace(temporary, whole)
        sync_folder(folder)
        for old in _steps(folder)[:-NUM_KEPT]:
            shutil.rmtree(folder / f"{old:05d}")
    wait_for_everyone()


def _check_finite(trained: Trained, step: int, accelerator: Accelerator) -> None:
    """Weights that are no numbers are not saved (UserError, on all processes): the checkpoints before them stay."""
    bad = sum(not bool(torch.isfinite(local(p)).all()) for o in trained.optimizers for p in _parameters(o))
    if highest(bad, accelerator):
        raise UserError(
            f"weights after step {step} are no numbers ({bad} tensors of process {accelerator.process_index}); expected finite "
            "ones: the last checkpoint stays, and the same command goes on there; where it happens again, lower the "
            "learning rate, or check the data and the model that it started from"
        )


def _of_all(trained: Trained) -> Sequence[Any]:
    """The optimizers of which every process has the same."""
    return () if trained.sharded else trained.optimizers


def load_checkpoint(
    folder: Path, trained: Trained, fingerprint: str, accelerator: Accelerator, oldest: bool = False
) -> Restored | None:
    """Put the newest whole checkpoint (or the oldest kept) into the optimizers' parameters, and return the rest.

    None where there is none; a damaged one is passed over, one of another config is a UserError. Another number of
    processes goes on with what all of those before had.
    """
    steps = sorted(_steps(folder), reverse=not oldest)
    for step in steps:
        path = folder / f"{step:05d}"
        manifest = _manifest(path)
        if manifest is None:
            logger.warning("passed over the damaged checkpoint %s", path)
            continue
        if manifest["fingerprint"] != fingerprint:
            raise UserError(
                f"{path} was written with another config or other training data; expected the "
                f"same ones: go back to them, or remove {folder} to begin the stage again"
            )
        shared = torch.load(path / "shared.pt", map_location="cpu", weights_only=True)
        states = zip(_of_all(trained), shared["weights"], shared["optimizers"], strict=True)
        for optimizer, weights, state in states:
            with torch.no_grad():
                for p, saved in zip(_parameters(optimizer), weights, strict=True):
                    p.copy_(saved)
            optimizer.load_state_dict(state)
        for schedule, state in zip(trained.schedules, shared["schedules"], strict=True):
            schedule.load_state_dict(state)
        if trained.sharded:
            load_shards(path / SHARDS, trained.sharded, trained.optimizers)
        return _restored(path, step, accelerator.process_index, accelerator.num_processes)
    return None


def go_on(
    session: Session, trained: Trained, fingerprint: str, accelerator: Accelerator
) -> tuple[int, float]:
    """As load_checkpoint, for a loop that carries its costs alone: the updates done before, and the seconds they took."""
    found = None
    if session.checkpoints is not None:
        found = load_checkpoint(session.checkpoints, trained, fingerprint, accelerator)
    if found is None:
        return 0, 0.0
    session.ledger.resume(found.loop["ledger"], found.loop["seconds"])
    return found.step, found.loop["seconds"]


def _restored(path: Path, step: int, rank: int, num: int) -> Restored:
    """What a process goes on with: its own part, or, where there were not as many processes, a share of all parts."""
    saved = len(list(path.glob("rank*.pt")))
    ranks = [rank] if saved == num else range(saved)
    own = [torch.load(path / f"rank{i}.pt", weights_only=True) for i in ranks]
    set_random_states(own[0]["random"])
    loops = [o["loop"] for o in own]
    return Restored(step, loops[0] if saved == num else regrouped(loops, rank, num))


def regrouped(loops: Sequence[dict[str, Any]], rank: int, num: int) -> dict[str, Any]:
    """A loop's variables on one of `num` processes, from those of all processes before.

    Lists in SHARED_OUT and BY_NUMBER are dealt out anew, the first process has the costs of all; whatever else is the
    same on all.
    """
    dealt = {
        name: [x for loop in loops for x in loop[name]][rank::num] for name in SHARED_OUT if name in loops[0]
    }
    for name in BY_NUMBER:
        if name in loops[0]:
            rows = [x for loop in loops for x in loop[name] if x["number"] % num == rank]
            dealt[name] = sorted(rows, key=lambda row: row["number"])
    ledger = Ledger()
    if rank == 0:
        for stage in {stage for loop in loops for stage in loop["ledger"]["counts"]}:
            ledger.gather(stage, [loop["ledger"] for loop in loops])
    return {**loops[0], **dealt, "ledger": ledger.to_dict()}


def fingerprint_of(config: Config, seed: int, data: Iterable[Any]) -> str:
    """What must be the same for a checkpoint to be gone on from: all but the keys that may change, and the data by content.

    Keys at their defaults do not count, so that a later version with more keys goes on.
    """
    digest = hashlib.sha256(json.dumps([decisive(config, defaults=False), seed]).encode())
    for facts in data:
        digest.update(repr(facts).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def latest_step(folder: Path) -> int:
    """The step of the newest whole checkpoint; 0 where there is none."""
    return next((s for s in reversed(_steps(folder)) if _manifest(folder / f"{s:05d}")), 0)


def _parameters(optimizer) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _steps(folder: Path) -> list[int]:
    return sorted(int(p.name) for p in folder.glob("[0-9]*") if p.name.isdecimal())


def _manifest(path: Path) -> dict[str, Any] | None:
    """The manifest, if every file is there and whole."""
    try:
        manifest = read_json(path / MANIFEST)
        is_whole = all(sha256(path / name) == digest for name, digest in manifest["sha256"].items())
    except (OSError, ValueError, KeyError):
        return None
    return manifest if is_whole else None


def random_states() -> dict[str, Any]:
    """Of all generators that a loop may draw from, in plain values and tensors."""
    version, internal, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(internal), gauss],
        "numpy": [keys.tolist(), int(position), int(has_gauss), float(cached)],  # pyright: ignore[reportAttributeAccessIssue]
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Put back what `random_states` gave."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])


def _write(path: Path, value: dict[str, Any]) -> None:
    with saying_what_is_full(path), open(path, "wb") as file:
        torch.save(value, file)
        file.flush()
        os.fsync(file.fileno())
