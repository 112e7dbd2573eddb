"""What is said of memory before a run starts, and what is refused: by far too much, and never on a guess."""

from pathlib import Path

import pytest
import yaml
from small_models import save_small_qwen
from typer.testing import CliRunner

import reasoner.pipeline as pipeline
from reasoner.cli import app
from reasoner.config import validate
from reasoner.pipeline import RunConfig
from reasoner.planning.free import Free, free_here, free_memory, of_group
from reasoner.planning.lengths import ProblemSet
from reasoner.planning.models import config_from
from reasoner.planning.needs import need_of
from reasoner.planning.peaks import FAR, check_memory
from reasoner.planning.work import Work
from reasoner.registry import UserError

ROWS = "".join(
    f'{{"prompt": "{i}+1", "answer": "{i + 1}", "solution": "{i}+1={i + 1}"}}\n' for i in range(12)
)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> RunConfig:
    folder = tmp_path_factory.mktemp("peaks")
    model = save_small_qwen(folder / "model", ["1+2=3\n"] * 9, 300)
    (folder / "rows.jsonl").write_text(ROWS)
    raw = {
        "out": str(folder / "run"),
        "problems": {"train": [{"name": "jsonl", "path": str(folder / "rows.jsonl")}]},
        "stages": [
            {"kind": "sft", "model": str(model), "problems": ["train"], "max_steps": 1, "batch_size": 2},
            {"kind": "rollout", "model": "sft", "num_problems": 4, "max_tokens": 8},
            {"kind": "ppo", "model": "sft", "rounds": 1, "problems_per_round": 4, "max_tokens": 8, "tokens_per_batch": 4096},
        ],
    }  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(raw))
    return validate(RunConfig, raw, "peaks")


def told(config: RunConfig, free: Free, done: tuple[str, ...] = ()) -> dict[str, str]:
    return check_memory(config.stages, config.problems, config.prompt, free, done.__contains__)


def test_a_line_for_each_stage_that_trains_or_draws_here(config):
    lines = told(config, Free(64e9))
    assert list(lines) == ["sft", "rollout", "ppo"]
    assert lines["rollout"].startswith("memory: rollout needs about ")
    raw = config.model_dump(mode="json")
    raw["stages"][1]["engine"] = {"kind": "vllm", "urls": ["http://127.0.0.1:1"]}
    assert list(told(validate(RunConfig, raw, "served"), Free(64e9))) == [
        "sft",
        "ppo",
    ]  # they have their own memory
    assert lines["sft"].startswith("memory: sft needs about ") and lines["sft"].endswith("and 64 GB are free")
    assert list(told(config, Free(64e9), ("sft", "rollout"))) == ["ppo"]
    assert told(config, Free(1.0), ("sft", "rollout", "ppo")) == {}


def test_what_is_tight_is_told_with_what_fits(config):
    assert (
        "; the nearest choice that fits: " in told(config, Free(needed(config, "ppo") / 1.2), ("sft",))["ppo"]
    )


def needed(config: RunConfig, name: str) -> float:
    """Bytes of a stage's peak, by bisection on what is refused."""
    low, high = 1.0, 64e9
    while high > 1.001 * low:
        middle = (low * high) ** 0.5
        try:
            told(config, Free(middle / FAR), tuple(s.name for s in config.stages if s.name != name))
            high = middle
        except UserError:
            low = middle
    return high


def test_only_what_is_far_beyond_is_refused(config):
    others = ("sft", "rollout")
    need = needed(config, "ppo")
    told(config, Free(need / (FAR - 0.05)), others)
    with pytest.raises(UserError) as problem:
        told(config, Free(need / (FAR + 0.05)), others)
    text = str(problem.value)
    assert "\n" not in text and text.startswith("stage ppo needs about ")
    assert "are free; expected a stage that fits: the nearest choice that does: " in text
    told(config, Free(need / (FAR + 0.05), swap=need), others)  # slow, and no reason to refuse


@pytest.mark.parametrize("on_gpu", [False, True])
def test_slots_that_no_sequence_will_have_are_no_reason_to_refuse(config, on_gpu):
    """A rollout of 4 problems with a million slots."""
    raw = config.model_dump(mode="json")
    raw["stages"][1]["num_slots"] = 1 << 20
    many = validate(RunConfig, raw, "many")
    room = 1.2 * needed(config, "rollout")
    told(many, Free(room, on_gpu=on_gpu), ("sft", "ppo"))


def test_keys_and_values_take_no_more_than_they_are_given(config):
    """Where sequences fill all slots: the engine's share of the peak is what kv_bytes says."""

    lm = config_from(str(config.stages[0].model))

    def slots(**engine) -> float:
        raw = config.model_dump(mode="json")
        raw["stages"][1] |= {"num_slots": 1 << 20, "engine": engine}
        stage = validate(RunConfig, raw, "bounded").stages[1]
        work = Work(at_once=1 << 20)
        need = need_of(stage, lm, ProblemSet(0, 0, 0, 64, 0), Free(64e9).hardware(lm), work)
        assert need is not None
        return need.total

    bounded = slots(kv_bytes=1_000_000)
    assert slots() - bounded > 1e9 and slots(kv_bytes=3_000_000) - bounded == pytest.approx(2_000_000)


def test_a_run_tells_before_a_stage_and_refuses_before_the_first(config, monkeypatch, capfd):
    path = Path(config.out).parent / "run.yaml"
    monkeypatch.setattr(pipeline, "free_here", lambda processes: Free(1e6))
    with pytest.raises(UserError, match=r"stage sft needs about .* 1 MB are free"):
        CliRunner().invoke(app, ["run", str(path)], catch_exceptions=False, standalone_mode=False)
    assert not (Path(config.out) / "models").exists()
    monkeypatch.undo()
    out = path.parent / "alone"
    done = CliRunner().invoke(
        app, ["train", str(path), "stages=[" + str(config.stages[0].model_dump_json()) + "]", f"out={out}"]
    )
    assert done.exit_code == 0, done.output
    assert "memory: sft needs about " in done.output + capfd.readouterr().err


def test_what_is_free_here():
    found = free_here()
    assert 0 < found.memory <= free_memory() * 1.5 and found.processes == 1


def test_a_container_has_what_its_group_has(tmp_path):
    for name, text in {
        "memory.max": "1000000\n", "memory.current": "700000\n",
        "memory.stat": "anon 5\ninactive_file 100000\nactive_file 50000\n",
    }.items():  # fmt: skip
        (tmp_path / name).write_text(text)
    assert of_group(tmp_path) == 1_000_000 - 700_000 + 150_000
    (tmp_path / "memory.max").write_text("max\n")
    assert of_group(tmp_path) == of_group(tmp_path / "nothing") == float("inf")
