"""A full disk at any place that writes: one line, nothing half-written stays, and the same command goes on."""

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from small_models import branching_tree, save_small_qwen

from reasoner.config import apply_overrides, read_yaml, validate
from reasoner.pipeline import RunConfig, run
from reasoner.policy.adapters import LoRA, SharedBase, load_peft, save_trained
from reasoner.policy.heads import ScoreNet
from reasoner.policy.models import load_model, load_tokenizer, save
from reasoner.registry import UserError
from reasoner.store import is_done, write_text, write_trees
from reasoner.tracking import Tracker
from reasoner.trainers.checkpoint import Trained, latest_step, save_checkpoint

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save_small_qwen(tmp_path_factory.mktemp("model") / "base", ["1+1=2\n#### 2"] * 50))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: the system refuses, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _adapter(model: str, out: Path) -> None:
    shared = SharedBase(model, LoRA(r=16))
    with largest_file(500):
        save(shared.view("policy"), load_tokenizer(model), out)


def _peft(model: str, out: Path) -> None:
    net = load_peft(model, LoRA(r=16))
    with largest_file(3000):
        save_trained(net, load_tokenizer(model), out)


def _tokenizer(model: str, out: Path) -> None:
    """Weights so small that it is the tokenizer's file that does not fit."""
    lm, tokenizer = torch.nn.Linear(1, 1), load_tokenizer(model)
    lm.save_pretrained = lambda folder: None
    with largest_file(4000):
        save(lm, tokenizer, out)


def _plain(limit: int) -> Callable[[str, Path], None]:
    def write(model: str, out: Path) -> None:
        lm, tokenizer = load_model(model), load_tokenizer(model)
        with largest_file(limit):
            save(lm, tokenizer, out)

    return write


def _reward_model(model: str, out: Path) -> None:
    net = ScoreNet(load_model(model))
    with largest_file(20_000):
        net.save(load_tokenizer(model), out)


def _checkpoint(model: str, out: Path) -> None:
    net = torch.nn.Linear(200, 200)
    optimizer = torch.optim.SGD(net.parameters())
    save_checkpoint(out, 1, Trained([optimizer], []), {}, "f", Accelerator(cpu=True))
    try:
        with largest_file(20_000):
            save_checkpoint(out, 2, Trained([optimizer], []), {}, "f", Accelerator(cpu=True))
    finally:
        assert sorted(p.name for p in out.iterdir()) == ["00001"]
        assert latest_step(out) == 1
        for path in sorted(out.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()


def _metrics(model: str, out: Path) -> None:
    with Tracker(out) as tracker:
        tracker.log({"note": "x"}, 1)
        try:
            with largest_file(100):
                tracker.log({"note": "x" * 200}, 2)
        finally:
            (out / "metrics.jsonl").unlink()


def _text(model: str, out: Path) -> None:
    with largest_file(10):
        write_text(out / "notes", "x" * 11)


def _trees(model: str, out: Path) -> None:
    with largest_file(10):
        write_trees(out, [branching_tree()])


WRITERS: dict[str, Callable[[str, Path], None]] = {
    "tokenizer": _tokenizer,
    "weights": _plain(3000), "config": _plain(100), "adapter": _adapter, "peft": _peft,
    "reward model": _reward_model, "checkpoint": _checkpoint, "metrics": _metrics, "text": _text, "trees": _trees,
}  # fmt: skip


@pytest.mark.parametrize("what", WRITERS)
def test_every_writer_says_so_in_one_line_and_leaves_nothing(model, tmp_path, what):
    with pytest.raises(UserError) as told:
        WRITERS[what](model, tmp_path / "out")
    assert str(told.value).startswith("got a full disk while writing ") and "\n" not in str(told.value)
    assert "make room and start the same command again" in str(told.value)
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of that size, really mounted; skips where that is not allowed."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here ({mounted.stderr.strip()})")
    try:
        assert os.statvfs(folder).f_blocks * os.statvfs(folder).f_frsize < 10_000_000
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # weights are still mapped


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount a small file system"
)
@pytest.mark.parametrize(
    ("size", "save_every", "place"),
    [("60k", 1, "models/base/model"), ("180k", 1, "checkpoints/.00001.tmp"), ("1200k", 1, "checkpoints/.00002.tmp"),
     ("200k", 9, "models/ppo/model"), ("380k", 9, "models/ppo/critic")],
)  # fmt: skip
def test_a_run_on_a_disk_that_gets_full_goes_on_once_there_is_room(
    tmp_path, monkeypatch, size, save_every, place
):
    raw = apply_overrides(read_yaml(ROOT / "configs/smoke/ppo.yaml"), [f"stages.1.save_every={save_every}"])
    disk = tmp_path / "disk"
    config = validate(RunConfig, {**raw, "out": str(disk / "run")}, "test")
    with small_disk(disk, size):
        if place != "models/ppo/critic":  # there only what stands beside the weights is too much, which nobody foretells
            with pytest.raises(UserError, match=r"about [\d.]+ MB and [\d.]+ MB are free"):
                run(config)
            assert not list(disk.rglob("*.safetensors"))
        with monkeypatch.context() as patch, pytest.raises(UserError, match="full disk") as told:
            patch.setattr(
                "reasoner.pipeline.check_room", lambda *given: None
            )  # others took the room after the start
            run(config)
        assert place in str(told.value)
        done = [s.name for s in config.stages if is_done(disk / "run/stages" / s.name)]
        models = disk / "run" / "models"
        assert (
            sorted(p.name for p in models.iterdir() if any(p.iterdir())) == sorted(done)
            if models.is_dir()
            else not done
        )
        assert not list(disk.rglob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=30m", disk], check=True)
        stamps = {name: (models / name / "model/model.safetensors").stat().st_mtime_ns for name in done}
        run(config)
        assert all(is_done(disk / "run/stages" / s.name) for s in config.stages)
        assert stamps == {
            name: (models / name / "model/model.safetensors").stat().st_mtime_ns for name in done
        }
