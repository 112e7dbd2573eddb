"""What a finished stage vouches for: its files are on disk for good, and have the sizes and hashes that its marker names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from reasoner.registry import UserError
from reasoner.store import mark_done, sync_folder


def seal(out: Path, stage: str, info: dict[str, Any]) -> None:
    """Sync a stage's outputs, and only then mark it as done, with each file's size and SHA-256 under `files`."""
    files = {}
    folders = {out, out / "stages", out / "stages" / stage}
    for path in _outputs(out, stage):
        files[path.relative_to(out).as_posix()] = {"size": path.stat().st_size, "sha256": _synced(path)}
        folders |= {p for p in path.parents if p.is_relative_to(out)}
    for folder in folders:
        sync_folder(folder)
    mark_done(out / "stages" / stage, {**info, "files": files})


def check_seal(out: Path, stage: str, info: dict[str, Any]) -> None:
    """A file that is not as the stage's marker says is a UserError. Reads every byte of the stage's outputs once."""
    for name, known in info.get("files", {}).items():
        path = out / name
        try:
            size = path.stat().st_size
            fault = f"{size:,} bytes" if size != known["size"] else ""
            if not fault and sha256(path) != known["sha256"]:
                fault = f"{size:,} bytes of other content"
        except OSError as problem:
            fault = problem.strerror or "an error"
        if fault:
            raise UserError(
                f"got {path} damaged ({fault}), expected {known['size']:,} bytes as the stage {stage} wrote them: restore "
                f"it, or remove {out / 'stages' / stage / 'done'} to run {stage} again"
            )


def fingerprint(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Size, time of change and SHA-256 of each data file, also of those in a folder."""
    files = [(str(file), file.stat()) for path in paths for file in _files(path)]
    return {
        name: {"size": s.st_size, "mtime_ns": s.st_mtime_ns, "sha256": _known(name, s.st_size, s.st_mtime_ns)}
        for name, s in files
    }


def changed(known: dict[str, dict[str, Any]], paths: Iterable[Path]) -> str | None:
    """The first data file that is another, new or gone since `fingerprint`; only touched ones are read again."""
    present = {str(file): file for path in paths for file in _files(path)}
    for name in sorted(known.keys() ^ present.keys()):
        return name
    for name, file in present.items():
        then, now = known[name], file.stat()
        is_untouched = (then["size"], then["mtime_ns"]) == (now.st_size, now.st_mtime_ns)
        if not is_untouched and (then["size"] != now.st_size or sha256(file) != then["sha256"]):
            return name
    return None


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _known(file: str, size: int, mtime_ns: int) -> str:
    """The hash of a data file, which several stages ask for, as it is at a time."""
    return sha256(Path(file))


def _synced(path: Path) -> str:
    """The file's SHA-256, once it is on disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _outputs(out: Path, stage: str) -> Iterator[Path]:
    """The files that later stages and the report read."""
    for kind in ("models", "trees", "records"):
        yield from _files(out / kind / stage)
    yield from sorted((out / "stages" / stage).glob("*.json"))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(p for p in path.rglob("*") if p.is_file())
