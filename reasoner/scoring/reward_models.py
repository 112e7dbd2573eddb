"""One loader for every reward model that is not trained: ours or a published one, on this process's device."""

from __future__ import annotations

from pathlib import Path

from reasoner.policy.heads import HEAD_FILE, ScoreNet
from reasoner.policy.machine import own_device
from reasoner.policy.models import local_folder
from reasoner.scoring.published import PUBLISHED, Decode, PublishedPRM, layout_of, load_published


def is_ours(name: str) -> bool:
    """Whether a folder holds a reward model that this program trained."""
    return (Path(name) / HEAD_FILE).is_file()


def kind_and_path(name: str) -> tuple[str | None, str]:
    """Of trl:FOLDER the kind of a published model and its folder; of any other name None and itself."""
    kind, _, path = name.partition(":")
    return (kind, path) if kind in PUBLISHED and path else (None, name)


def load_reward_model(name: str, decode: Decode | None = None) -> ScoreNet | PublishedPRM:
    """The reward model of a folder or hub name, ready to score.

    `decode` makes text of the policy's tokens, which published models read instead. Where a published model's
    weights don't tell its layout, it stands before the name: math_shepherd:FOLDER_OR_HUB_NAME.
    """
    kind, path = kind_and_path(name)
    if kind is None and is_ours(path):
        return ScoreNet.load(Path(path)).eval().to(own_device())
    folder = local_folder(path)
    return load_published(folder, kind or layout_of(folder), decode)


def load_orm(name: str) -> ScoreNet:
    """The outcome reward model of a folder, ready to score."""
    return ScoreNet.load(Path(name)).eval().to(own_device())
