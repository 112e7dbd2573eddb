"""The configurations that come with reasoner: beside the code in a checkout, inside the package where it is installed."""

from __future__ import annotations

from pathlib import Path

from reasoner.config import ConfigError
from reasoner.registry import nearest

_PACKAGE = Path(__file__).parent.parent
CONFIGS = next(p for p in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if p.is_dir())


def found(path: Path) -> Path:
    """The file itself, or the shipped one of that name, as configs/smoke/run.yaml in any folder; else ConfigError."""
    if path.exists():
        return path
    wanted = path.as_posix().removeprefix("configs/")
    known = [name.removeprefix("configs/") for name in names()]
    if wanted in known:
        return CONFIGS / wanted
    close = [f"configs/{name}" for name in nearest(wanted, known)]
    raise ConfigError(
        f"got config {path}: there is no such file; expected one, or a shipped one"
        + (f": did you mean {' or '.join(close)}?" if close else "; see reasoner config list")
    )


def names() -> list[str]:
    """All shipped configurations, as configs/gsm8k/sft.yaml."""
    return sorted(p.relative_to(CONFIGS.parent).as_posix() for p in CONFIGS.rglob("*.yaml"))


def about(name: str) -> str:
    """The first sentence of a shipped configuration's comment: what it does."""
    text = (CONFIGS.parent / name).read_text(encoding="utf-8")
    comment = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    return comment.partition(". ")[0].rstrip(".")
