"""The whole pipeline on very small models: every stage, resume by stage, and bad input as one line with exit code 2."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import AutoConfig

from reasoner.economics.shape import count_parameters
from reasoner.store import is_done
from tests import warm

ROOT = Path(__file__).parent.parent
RUN = ROOT / "configs" / "smoke" / "run.yaml"
PPO = ROOT / "configs" / "smoke" / "ppo.yaml"
DPO = ROOT / "configs" / "smoke" / "dpo.yaml"


def reasoner(*arguments):
    return warm.reasoner(*arguments, cwd=ROOT)


def cold(*arguments, **options):
    command = [sys.executable, "-m", "reasoner", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "smoke"
    done = reasoner("run", RUN, f"out={out}", "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    last = f"next: reasoner view {out}   reasoner show {out}   reasoner chat {out}/models/"
    assert done.stderr.splitlines()[-1].startswith(last), done.stderr[-2000:]
    return out, json.loads(done.stdout)


def test_every_stage_leaves_its_files(finished):
    out, _ = finished
    for stage in (
        "base",
        "sft",
        "rollout",
        "verify",
        "label",
        "prm",
        "orm",
        "ppo",
        "sft_continued",
        "evaluate",
    ):
        assert is_done(out / "stages" / stage), stage
    for model in ("base", "sft", "prm", "orm", "ppo", "sft_continued"):
        assert (out / "models" / model / "model" / "model.safetensors").is_file(), model
    assert (out / "models/ppo/critic/score_head.safetensors").is_file()
    assert list((out / "trees/verify").glob("*.parquet"))
    assert {p.name for p in (out / "records/label").iterdir()} >= {"hard", "soft", "outcome"}
    assert "<svg" in (out / "report.html").read_text()


def test_rows_name_metric_method_and_policy(finished):
    out, rows = finished
    assert rows == json.loads((out / "metrics.json").read_text())
    found = {(r["when"], r["metric"], r["method"], r["subset"]) for r in rows}
    for when in ("base", "sft", "sft_continued", "ppo"):
        assert (when, "pass@1", "greedy", "all") in found
    for when in ("sft", "ppo"):
        assert {(when, m, k, "all") for m, k in [("pass@4", "sampled"), ("maj@4", "sampled"), ("best_of_4", "prm"),
                                                 ("best_of_4", "orm"), ("best_of_4", "prm, min"),
                                                 ("pass@1", "sampled")]} <= found  # fmt: skip
    assert all(r["low"] <= r["value"] <= r["high"] for r in rows if r["low"] is not None)
    assert len({r["n"] for r in rows if r["subset"] == "all"}) == 1


def test_ledger_counts_tokens_and_seconds(finished):
    out, _ = finished
    ledger = json.loads((out / "ledger.json").read_text())
    assert ledger["seconds"]["ppo"] > 0
    assert ledger["counts"]["rollout"]["policy"]["decoded"] > 0
    assert ledger["counts"]["rollout"]["verifier"]["verifications"] > 0
    assert ledger["counts"]["rollout"]["verifier"]["verifier_seconds"] > 0
    assert ledger["counts"]["ppo"]["verifier"]["verifier_seconds"] > 0
    assert ledger["counts"]["ppo"]["verifier"]["seconds_waiting"] >= 0
    assert ledger["processes"]["ppo"] == 1 and ledger["dollars"]["ppo"] == 0
    written = sum(
        f.stat().st_size for f in (out / "trees" / "rollout").rglob("*") if f.is_file()
    )  # and the stage's own metrics
    assert written <= ledger["counts"]["rollout"]["disk"]["bytes_written"] < written + 100_000
    parameters = count_parameters(AutoConfig.from_pretrained(out / "models" / "sft" / "model")).active
    trained = ledger["counts"]["sft"]["policy"]
    assert trained["flops"] == pytest.approx(6 * parameters * trained["trained"], abs=1)
    generated = ledger["counts"]["ppo"]["policy"]["trajectories_generated"]
    assert generated >= ledger["counts"]["ppo"]["policy"]["trajectories_kept"] > 0


def test_the_same_command_again_starts_at_once(finished):
    out, rows = finished
    before = (out / "models/sft/model/model.safetensors").stat().st_mtime_ns
    again = reasoner("run", RUN, f"out={out}", "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout) == rows
    assert (out / "models/sft/model/model.safetensors").stat().st_mtime_ns == before


def test_another_config_in_the_same_folder_is_refused(finished):
    out, _ = finished
    refused = reasoner("run", RUN, f"out={out}", "seed=7")
    assert refused.returncode == 2
    assert "seed: 0 != 7" in refused.stderr


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    out = tmp_path / "killed"
    process = warm.start("run", DPO, f"out={out}", cwd=ROOT, streams=[tmp_path / "out", tmp_path / "err"])
    deadline = time.monotonic() + 120
    while not is_done(out / "stages/sft") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.join()
    assert is_done(out / "stages/sft")
    assert not is_done(out / "stages/evaluate")
    stamp = (out / "models/sft/model/model.safetensors").stat().st_mtime_ns
    again = reasoner("run", DPO, f"out={out}", "--json")
    assert again.returncode == 0, again.stderr[-2000:]
    assert (out / "models/sft/model/model.safetensors").stat().st_mtime_ns == stamp
    assert {r["when"] for r in json.loads(again.stdout)} == {"sft", "dpo"}


def one_line(done, *parts):
    assert done.returncode == 2, done.stderr[-2000:]
    line = [x for x in done.stderr.splitlines() if x.startswith("reasoner: ")]
    assert len(line) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in line[0]


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["stages.1.roundz=3"], ["roundz", "did you mean rounds?"]),
        (["stages.1.rounds=many"], ["stages.1.rounds", "'many'", "integer"]),
        (["stages.1.kind=ppoo"], ["ppoo", "'ppo'"]),
        (["stages.1.model=./no/such/model"], ["./no/such/model", "model folder"]),
        (["stages.1.model=bose"], ["'bose'", "base"]),
        (["stages.1.problems=[tran]"], ["'tran'", "train"]),
        (["problems.train.0.name=arithmatic"], ["arithmatic", "arithmetic"]),
    ],
)
def test_bad_config_is_one_line(tmp_path, overrides, parts):
    out = tmp_path / "bad"
    one_line(reasoner("run", PPO, f"out={out}", *overrides), *parts)
    assert not out.exists()


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ("", ["is empty", "expected rows"]),
        ('{"prompt": "1+1"}', ["line 1", "no answer"]),
        ('{"prompt": "1+1", "answer": "2", "verifier": "mth"}', ["'mth'", "'math'"]),
        ('{"prompt": "1+1", "answer": ', ["line 1", "broken JSON"]),
        ('{"answer": "2"}', ["line 1", "prompt"]),
    ],
)
def test_bad_problems_are_one_line(tmp_path, row, parts):
    data = tmp_path / "problems.jsonl"
    data.write_text(row + "\n" if row else "")
    done = reasoner("run", PPO, f"out={tmp_path / 'bad'}", "problems.train.0.name=jsonl", "problems.train.0.start=0",
                    f"problems.train.0.path={data}")  # fmt: skip
    one_line(done, *parts)
    assert not (tmp_path / "bad" / "models" / "ppo").exists()


def test_our_warnings_are_shown_as_one_line(tmp_path):
    rows = [{"prompt": p, "answer": "1"} for p in ("1+0", "2-1", "1+0", "3-2")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = reasoner("run", PPO, f"out={tmp_path / 'run'}", "stages.1.rounds=1", "problems.train.0.name=jsonl",
                    "problems.train.0.start=0", f"problems.train.0.path={tmp_path}/rows.jsonl")  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    said = [line for line in done.stderr.splitlines() if line.startswith("reasoner: ")]
    assert len(said) == 1 and "1 of 4 problems" in said[0]


def test_no_network_when_the_hub_is_asked(tmp_path):
    done = cold("train", ROOT / "configs/gsm8k/sft.yaml", f"out={tmp_path / 'hub'}",
                env={**os.environ, "HF_HUB_OFFLINE": "1"})  # fmt: skip
    one_line(done, "Qwen/Qwen2.5-0.5B", "network", "local folder")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    one_line(reasoner("run", PPO, f"out={tmp_path / 'file' / 'run'}"), "cannot write", "out=")


def test_no_command_and_help():
    assert reasoner("bogus").returncode == 2
    shown = reasoner("run", "--help")
    assert shown.returncode == 0
    assert "Example" in shown.stdout
    schema = json.loads(reasoner("config", "schema").stdout)
    assert "stages" in schema["properties"]


def test_the_version_is_the_packages():
    from reasoner import __version__

    assert reasoner("--version").stdout == f"reasoner {__version__}\n"


def test_list_names_what_the_tables_hold_with_a_sentence_on_each():
    from reasoner.search.methods import METHODS
    from reasoner.signals.advantages import ADVANTAGES
    from reasoner.stages import STAGES

    shown = reasoner("list").stdout
    words = {line.split()[0] for line in shown.splitlines()}
    assert {*STAGES, *METHODS, *ADVANTAGES, "math", "gsm8k", "entropy"} <= words
    methods = reasoner("list", "advantages").stdout.splitlines()
    assert methods[0] == "advantage method" and len(methods) >= 1 + len(ADVANTAGES)
    grpo = "(return - mean) / deviation over the group (Shao et al. 2024, section 4.1.2)"
    assert [line.partition(" ")[2].strip() for line in methods if line.startswith("grpo ")] == [grpo]
    one_line(reasoner("list", "advantige"), "did you mean advantage method?")


def test_verify_prints_a_verdict():
    right = reasoner("verify", "math", "--response", "so \\boxed{5}", "--reference", '{"answer": "5"}')
    assert (right.returncode, json.loads(right.stdout)["status"]) == (0, "correct")
    wrong = reasoner("verify", "math", "--response", "#### 6", "--reference", '{"answer": "5"}')
    assert (wrong.returncode, json.loads(wrong.stdout)["status"]) == (1, "incorrect")
    one_line(reasoner("verify", "maths", "--response", "5", "--reference", "{}"), "'maths'", "math")
    one_line(reasoner("verify", "math", "--response", "5", "--reference", "{"), "JSON")
    none = reasoner("verify", "math", "--response", "", "--reference", '{"answer": "5"}')
    assert (none.returncode, json.loads(none.stdout)["status"]) == (1, "no_answer")
    one_line(
        reasoner("verify", "math", "--response", "5", "--reference", '["5"]'), '["5"]', "keys of: answer"
    )
    one_line(
        reasoner("verify", "math", "--response", "5", "--reference", '{"gold": "5"}'),
        '"gold"',
        "keys of: answer",
    )


def test_verify_tells_an_error_of_ours_from_a_wrong_answer():
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    ours = cold("verify", "small_verifiers:broken", "--response", "5", "--reference", "{}", env=env)
    assert (ours.returncode, json.loads(ours.stdout)["status"]) == (3, "error")


def test_functions_of_the_current_folder_are_found_and_hide_nothing(tmp_path):
    (tmp_path / "units.py").write_text(
        "from verifiers import Verdict\ndef km(response): return Verdict('correct', 'ok')\n"
    )
    (tmp_path / "typer.py").write_text("raise RuntimeError('a file of the user hid the library')\n")
    program = Path(sys.executable).with_name("reasoner")
    done = subprocess.run([program, "verify", "units:km", "--response", "5 km", "--reference", "{}"], cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)  # fmt: skip
    assert (done.returncode, json.loads(done.stdout)["status"]) == (0, "correct"), done.stderr


def test_a_command_that_was_given_nothing_shows_its_help():
    for arguments in ((), ("config",)):
        bare = reasoner(*arguments)
        assert bare.returncode == 2 and "Usage:" in bare.stdout and "reasoner: " not in bare.stderr
    one_line(reasoner("run"), "Missing argument", "run --help")


def test_verify_reads_the_response_from_a_file(tmp_path):
    (tmp_path / "response").write_bytes(b"\xff so \\boxed{5}")
    command = ("verify", "math", "--reference", '{"answer": "5"}', "--response")
    assert json.loads(reasoner(*command, f"@{tmp_path}/response").stdout)["status"] == "correct"
    one_line(reasoner(*command, f"@{tmp_path}/none"), "No such file", "readable file")


def test_the_least_isolation_is_the_runs(tmp_path):
    from reasoner.config import ConfigError, apply_overrides, read_yaml, validate
    from reasoner.pipeline import RunConfig, run
    from verifiers.sandbox import pool

    raw = {**apply_overrides(read_yaml(RUN), [f"out={tmp_path}/run"]), "min_isolation": "A"}
    raw["stages"] = raw["stages"][:1]
    run(validate(RunConfig, raw, "test"))
    assert pool.min_isolation == "A"
    with pytest.raises(ConfigError, match="min_isolation: got 'D', expected 'A', 'B'"):
        validate(RunConfig, {**raw, "min_isolation": "D"}, "test")


def test_rollouts_meet_every_source_of_a_problem_set(finished):
    from reasoner.store import read_trees

    out, _ = finished
    families = {t.problem.id.partition("/")[0] for t in read_trees(out / "trees/rollout")}
    assert families == {"chain_sum", "gcd"}
