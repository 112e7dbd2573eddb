"""What the checks need to know of this machine, asked once."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from reasoner.planning.free import Free, free_memory
from reasoner.policy.machine import has_bfloat16, on_cpu


@dataclass(frozen=True)
class Machine:
    """Facts of a machine; bytes. `outdated` are requirements of ours that are not met, `logged_in` is about wandb."""

    on_gpu: bool
    bfloat16: bool
    free_memory: float
    free_disk: float
    outdated: tuple[str, ...] = ()
    logged_in: bool = False
    four_bit: bool = False

    @property
    def free(self) -> Free:
        return Free(self.free_memory, on_gpu=self.on_gpu)


def this_machine(out: Path) -> Machine:
    return Machine(
        on_gpu=not on_cpu(),
        bfloat16=has_bfloat16(),
        free_memory=free_memory(),
        free_disk=shutil.disk_usage(_existing(out)).free,
        outdated=_outdated(),
        logged_in=_logged_in(),
        four_bit=importlib.util.find_spec("bitsandbytes") is not None,
    )


def _existing(path: Path) -> Path:
    path = path.expanduser().absolute()
    return next(p for p in (path, *path.parents) if p.is_dir())


def _outdated() -> tuple[str, ...]:
    """The package's own requirements that what is installed does not meet; none where it is not installed itself."""
    try:
        wanted = metadata.requires("reasoner") or []
    except metadata.PackageNotFoundError:
        return ()
    found = []
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            found.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} {version} is not {requirement.specifier}")
    return tuple(found)


def _logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return "api.wandb.ai" in (Path.home() / ".netrc").read_text(errors="replace")
    except OSError:
        return False
