"""What stages name is checked before the first of them runs, and what may change in a half-done run."""

from pathlib import Path
from typing import get_args

import pytest

from reasoner.config import Config, _metadata_in, apply_overrides, read_yaml, validate
from reasoner.ledger import Ledger
from reasoner.parts import write_whole
from reasoner.pipeline import RunConfig, basis, check, run
from reasoner.registry import UserError
from reasoner.stages import STAGES, StageConfig
from reasoner.stages.references import MAKES, Names, NamesProblems
from reasoner.store import is_done, write_json

ROOT = Path(__file__).parent.parent.parent
SMOKE = ROOT / "configs" / "smoke" / "run.yaml"


def config(out: Path, *overrides: str, stages: int | None = None) -> RunConfig:
    raw = apply_overrides(read_yaml(SMOKE), [f"out={out}", *overrides])
    raw["stages"] = raw["stages"][:stages]
    return validate(RunConfig, raw, "smoke")


def of(name: str, key: str, value: str) -> str:
    """An override of a stage's key, by the stage's name."""
    names = [s.get("name", s["kind"]).replace("init", "base") for s in read_yaml(SMOKE)["stages"]]
    return f"stages.{names.index(name)}.{key}={value}"


def test_every_kind_of_stage_says_what_it_makes():
    assert set(MAKES) == set(STAGES)


@pytest.mark.parametrize(
    ("name", "key", "value", "parts"),
    [
        ("evaluate", "policies", "[base, ppoo]", ["stages.evaluate.policies is 'ppoo'", "did you mean ppo?"]),
        (
            "evaluate",
            "sampled",
            "[base, prm]",
            ["stages.evaluate.sampled is 'prm'", "not among its policies"],
        ),
        ("evaluate", "prm", "sft", ["no earlier stage that makes a reward model", "prm, orm"]),
        ("evaluate", "orm", "orn", ["did you mean orm?"]),
        ("evaluate", "calibrate_on", "label", ["no earlier stage that makes trees", "rollout, verify"]),
        ("evaluate", "problems", "[tset]", ["no problem set", "did you mean test?"]),
        ("verify", "trees", "rolout", ["did you mean rollout?"]),
        ("label", "trees", "sft", ["no earlier stage that makes trees"]),
        ("label", "critic", "nobody", ["no earlier stage and no folder"]),
        ("prm", "labels", "verify", ["no earlier stage that makes records"]),
        ("prm", "label_kind", "sfot", ["stages.prm.label_kind is 'sfot'", "did you mean soft?"]),
        ("orm", "labels", "lable", ["did you mean label?"]),
        ("ppo", "critic", "evaluate", ["no earlier stage that makes a reward model"]),
        ("ppo", "model", "./none", ["there is no folder ./none"]),
        ("sft_continued", "seconds_of", "[rollout, pppo]", ["did you mean ppo?"]),
        ("sft_continued", "traces", "rollout", ["no earlier stage that makes records"]),
    ],
)
def test_a_name_in_a_late_stage_is_found_before_the_first(tmp_path, name, key, value, parts):
    with pytest.raises(UserError) as fault:
        run(config(tmp_path / "run", of(name, key, value)))
    for part in parts:
        assert part in str(fault.value)
    assert not (tmp_path / "run").exists()


def test_missing_data_of_a_late_stage_is_found_before_the_first(tmp_path):
    extra = {
        "kind": "step_benchmarks",
        "name": "steps",
        "prm": "prm",
        "benchmarks": {"a": {"path": str(tmp_path / "no")}},
    }
    raw = config(tmp_path / "run").model_dump(mode="json")
    with pytest.raises(UserError, match=r"stages\.steps\.benchmarks\.a\.path: no data at "):
        check(validate(RunConfig, {**raw, "stages": [*raw["stages"], extra]}, "test"))
    raw["problems"]["train"] = [{"name": "jsonl", "path": "nowhere.jsonl"}]
    with pytest.raises(UserError, match=r"problems\.train\.0\.path: no data at nowhere\.jsonl"):
        check(validate(RunConfig, raw, "test"))


def test_two_names_that_are_one_folder_on_some_file_systems(tmp_path):
    with pytest.raises(UserError, match="stage names repeat: sft, SFT"):
        check(config(tmp_path, of("sft_continued", "name", "SFT")))


@pytest.mark.parametrize("path", [*sorted((ROOT / "configs").glob("demo*.yaml")), *sorted(SMOKE.parent.glob("*.yaml"))],
                         ids=lambda p: p.name)  # fmt: skip
def test_shipped_configs_pass(path):
    check(validate(RunConfig, {"out": "nowhere", **read_yaml(path)}, str(path)))


def test_keys_that_name_something_declare_it():
    """A new stage's `model`, `prm`, `trees` … cannot be forgotten: each is read by its declaration."""
    meant = {"model", "critic", "prm", "orm", "trees", "labels", "traces", "policies", "policy", "calibrate_on",
             "seconds_of", "problems", "demonstrations"}  # fmt: skip
    looked_at = 0
    for stage in get_args(StageConfig):
        for key in meant & stage.model_fields.keys():
            field = stage.model_fields[key]
            kinds = [k for k in (field.annotation, *get_args(field.annotation)) if isinstance(k, type)]
            if any(issubclass(k, Config) for k in kinds):
                continue  # options, as a label stage's traces
            declared = [*field.metadata, *_metadata_in(field.annotation)]
            assert any(isinstance(m, Names | NamesProblems) for m in declared), (stage, key)
            looked_at += 1
    assert looked_at > 25


@pytest.fixture(scope="module")
def half_done(tmp_path_factory):
    """Two of the stages are finished."""
    out = tmp_path_factory.mktemp("half") / "run"
    run(config(out, stages=2))
    assert is_done(out / "stages/sft")
    return out


@pytest.mark.parametrize(
    "changes",
    [
        ["title=another"], ["wandb={mode: disabled}"], ["min_isolation=A"],
        [of("ppo", "optimizer.lr", "0.5")], [of("ppo", "rounds", "7")], [of("evaluate", "num_samples", "3")],
    ],
)  # fmt: skip
def test_what_touches_no_finished_stage_may_change(half_done, changes):
    stamp = (half_done / "models/sft/model/model.safetensors").stat().st_mtime_ns
    changed = config(half_done, *changes)
    assert run(changed.model_copy(update={"stages": changed.stages[:2]})) == []
    assert (half_done / "models/sft/model/model.safetensors").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("seed=7", "seed: 0 != 7"),
        ("prompt.template='{prompt}?'", "prompt.template"),
        (of("sft", "max_steps", "31"), "stages.sft.max_steps"),
        ("problems.demonstrations.0.size=3", "problems.demonstrations.0.size"),
        ("problems.test.0.size=3", "problems.test.0.size"),
    ],
)
def test_what_a_finished_stage_rests_on_may_not(half_done, change, told):
    with pytest.raises(UserError) as fault:
        run(config(half_done, change, stages=2))
    assert told in str(fault.value) and "finished stage" in str(fault.value)


def test_a_run_of_a_version_with_fewer_keys_goes_on(half_done, capsys):
    """What is new stands at its default, and is told; set otherwise it is another config."""
    marker = half_done / "stages/sft/done"
    before, info = marker.read_text(), is_done(half_done / "stages/sft")
    assert info is not None
    for place in (info["basis"]["stages"]["sft"], info["basis"]["prompt"]):
        place.pop("lora", None)
        place.pop("system", None)
    info["basis"]["stages"]["sft"]["optimizer"].pop("weight_decay")
    try:
        write_json(marker, info)
        stamp = (half_done / "models/sft/model/model.safetensors").stat().st_mtime_ns
        assert run(config(half_done, stages=2)) == []
        assert (half_done / "models/sft/model/model.safetensors").stat().st_mtime_ns == stamp
        told = capsys.readouterr().err
        assert "finished stage sft" in told and "they stand at their defaults" in told
        assert all(
            key in told for key in ("prompt.system", "stages.sft.lora", "stages.sft.optimizer.weight_decay")
        )
        with pytest.raises(UserError, match=r"stages.sft.lora: \(absent\) != \{"):
            run(config(half_done, of("sft", "lora", "{r: 4}"), stages=2))
    finally:
        marker.write_text(before)


def test_a_key_at_its_default_is_not_in_a_checkpoints_fingerprint(tmp_path):
    from reasoner.trainers.checkpoint import fingerprint_of

    class Old(Config):
        lr: float
        rounds: int = 3

    class New(Old):
        lora: dict | None = None
        reward: Config = Config()

    assert fingerprint_of(Old(lr=1, rounds=5), 0, []) == fingerprint_of(New(lr=1, rounds=5), 0, [])
    assert fingerprint_of(Old(lr=1), 0, []) != fingerprint_of(New(lr=1, lora={"r": 4}), 0, [])
    assert fingerprint_of(Old(lr=1), 0, []) != fingerprint_of(Old(lr=1, rounds=5), 0, [])


@pytest.mark.parametrize(
    ("key", "value"),
    [("rounds", 50), ("num_slots", 3), ("tokens_per_batch", 77), ("save_every", 2), ("gradient_checkpointing", "true"),
     ("generated_tokens", 10**6)],
)  # fmt: skip
def test_advice_can_be_followed_while_a_stage_is_half_done(tmp_path, key, value):
    """lower num_slots, tokens_per_batch or save_every, more rounds: the stage's checkpoints stay good."""
    from reasoner.trainers.checkpoint import fingerprint_of

    before, after = config(tmp_path), config(tmp_path, of("ppo", key, str(value)))
    old, new = (next(s for s in c.stages if s.kind == "ppo") for c in (before, after))
    assert old != new
    assert basis(old, before) == basis(new, after)
    assert fingerprint_of(old, 0, []) == fingerprint_of(new, 0, []) != fingerprint_of(old, 0, [("1+1",)])
    assert fingerprint_of(old, 0, []) != fingerprint_of(old.model_copy(update={"clip_low": 0.1}), 0, [])


def test_another_config_of_a_stage_with_checkpoints_is_refused_with_a_way_out(tmp_path):
    out = tmp_path / "run"
    known = config(out)
    ppo = next(s for s in known.stages if s.kind == "ppo")
    run(known.model_copy(update={"stages": known.stages[:1]}))
    checkpoint = out / "stages/ppo/checkpoints/00001"
    write_json(checkpoint / "manifest.json", {"step": 1, "fingerprint": "", "sha256": {}})
    write_whole(out / "stages/ppo/basis.json", basis(ppo, known))
    with pytest.raises(UserError) as fault:
        run(config(out, of("ppo", "optimizer.lr", "0.5")))
    for part in ("half-done stage ppo", "stages.ppo.optimizer.lr", f"remove {checkpoint.parent} to begin"):
        assert part in str(fault.value)
    assert checkpoint.is_dir()


def test_training_data_that_changed_is_told(tmp_path):
    data = tmp_path / "shown.jsonl"
    data.write_text('{"prompt": "1+1", "answer": "2", "solution": "#### 2"}\n')
    raw = read_yaml(SMOKE)
    raw |= {
        "out": str(tmp_path / "run"),
        "problems": {"demonstrations": [{"name": "jsonl", "path": str(data)}]},
    }
    raw["stages"] = raw["stages"][:1]
    run(validate(RunConfig, raw, "test"))
    run(validate(RunConfig, raw, "test"))
    data.write_text('{"prompt": "1+2", "answer": "3", "solution": "#### 3"}\n')
    with pytest.raises(UserError, match=r"data in .*shown\.jsonl changed since the stage base"):
        run(validate(RunConfig, raw, "test"))


def test_a_failed_first_stage_keeps_its_metrics_and_all_that_is_not_its_own(tmp_path):
    data, held_out, out = tmp_path / "rows.jsonl", tmp_path / "test.jsonl", tmp_path / "run"
    for path in (data, held_out):
        path.write_text('{"prompt": "What is 1+1, if you please?", "answer": "2"}\n')
    raw = read_yaml(SMOKE)
    sets = {"demonstrations": data, "test": held_out}
    problems = {name: [{"name": "jsonl", "path": str(path)}] for name, path in sets.items()}
    raw |= {"out": str(out), "problems": problems}
    raw["stages"] = raw["stages"][:1]
    for _ in range(2):  # the second time with a user's file beside
        with pytest.raises(UserError, match="empty once test problems are left out"):
            run(validate(RunConfig, raw, "test"))
        assert (out / "stages/base/metrics.jsonl").is_file() and (out / "config.yaml").is_file()
        (out / "notes.txt").write_text("mine")
    assert (out / "notes.txt").read_text() == "mine"
    data.write_text('{"prompt": "1+1", "answer": "2"}\n')
    run(validate(RunConfig, raw, "test"))
    assert is_done(out / "stages/base") and (out / "notes.txt").read_text() == "mine"


def test_a_finished_stage_is_verified_before_it_is_used(tmp_path):
    out = tmp_path / "run"
    run(config(out, stages=1))
    weights = out / "models/base/model/model.safetensors"
    with open(weights, "r+b") as file:
        file.seek(-4, 2)
        file.write(b"\1\2\3\4")
    with pytest.raises(UserError, match=r"model\.safetensors damaged .*done to run base again"):
        run(config(out, stages=2))
    (out / "stages/base/done").unlink()  # the remedy
    run(config(out, stages=2))
    assert is_done(out / "stages/sft")


def test_what_a_kill_leaves_just_past_the_marker_is_removed(tmp_path):
    out = tmp_path / "run"
    run(config(out, stages=1))
    left = out / "stages/base/checkpoints/00003"
    left.mkdir(parents=True)
    (out / "ledger.json").unlink()
    run(config(out, stages=1))
    assert not left.parent.exists()


def test_a_damaged_ledger_is_one_line(tmp_path):
    out = tmp_path / "run"
    run(config(out, stages=1))
    (out / "ledger.json").write_text('{"counts": {}')
    with pytest.raises(UserError, match=r"ledger\.json, which cannot be read .*remove it to go on"):
        run(config(out, stages=1))
    (out / "ledger.json").unlink()
    run(config(out, stages=1))
    with pytest.raises(UserError, match="expected a run's costs"):
        (out / "ledger.json").write_text("[]")
        Ledger.load(out / "ledger.json")


@pytest.mark.parametrize("text", ["[{", '[{"stage": 1}]', '{"a": 1}'])
def test_damaged_rows_are_one_line(tmp_path, text):
    out = tmp_path / "run"
    run(config(out, stages=1))
    (out / "stages/base/rows.json").write_text(text)
    with pytest.raises(UserError, match=r"stages/base/rows\.json, which cannot be read"):
        run(config(out, stages=1))
