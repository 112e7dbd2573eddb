"""The command that runs all benchmarks names files that are there, and makes a table of what they print; rows of the
studies of learning are runs that can be made."""

import importlib
import json
import os
import signal
from itertools import pairwise
from pathlib import Path

import pytest

from reasoner.config import validate
from reasoner.pipeline import RunConfig
from reasoner.records import StepLabels
from reasoner.store import write_records
from tests.benchmarks.problem_kinds import KINDS, countdown, long_sum, words
from tests.benchmarks.trials import MIDDLE, Choice
from verifiers import verify

runner = importlib.import_module("tests.benchmarks.__main__")


def test_every_name_is_a_benchmark():
    folder = Path(runner.__file__).parent
    assert [name for name in runner.NAMES if not (folder / f"{name}.py").is_file()] == []


def test_the_table_shows_each_row_and_nothing_for_what_is_unknown():
    rows = [{"name": "a", "ours": 3.0, "peer": 1.5, "peer_name": "b|c", "ratio": 2.0, "target": 1, "unit": "/s"},
            {"name": "d", "ours": 7, "peer": None, "peer_name": "", "ratio": None, "target": None, "unit": "s"}]  # fmt: skip
    assert runner.table(rows).splitlines()[2:] == [
        "| a | 3.0 | b\\|c 1.5 | 2.0 | 1 | /s |",
        "| d | 7 |  |  |  | s |",
    ]


def test_an_unknown_name_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", "verifi"])
    with pytest.raises(SystemExit):
        runner.main()
    assert "'verifi', expected some of verify" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(Path(runner.__file__).parent.glob("[a-z]*.py")), ids=lambda p: p.stem)
def test_every_benchmark_finds_what_it_imports(path):
    assert importlib.import_module(f"tests.benchmarks.{path.stem}").__doc__


@pytest.fixture(scope="module")
def learning():
    return importlib.import_module("tests.benchmarks.learning")  # where it is read: it imports TRL


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_every_method_is_a_run_that_can_be_made_with_its_choice(learning, kind, tmp_path):
    problems = learning.problems_of(kind, tmp_path)
    for method in (m for m in learning.METHODS if m.removesuffix(learning.HALVED) != learning.PEER):
        choice = Choice(2.0, 3, 4) if method in learning.CLIMBERS else Choice(2.0, 1, 2)
        stages = learning.stages_of(method, choice, Path("start"), [100.0] * len(learning.TREES), 1000, kind)
        config = validate(RunConfig, learning.config_of(Path("out"), 1, stages, problems, kind), "learning")
        *_, trained, measured = config.stages
        assert (
            measured.kind == "evaluate"
            and trained.optimizer.lr == 2 * learning.METHODS[method][1] * kind.rate
        )
        if trained.kind == "ppo":
            has_prm = any(stage.kind == "prm" for stage in config.stages)
            assert trained.generated_tokens == (800 if has_prm else 1000), method
            assert (trained.epochs, trained.minibatches, trained.max_tokens) == (3, 4, kind.longest), method


def test_every_lever_is_a_run_that_can_be_made(learning):
    levers = importlib.import_module("tests.benchmarks.levers")
    for lever in levers.LEVERS:
        stages = levers.stages_of(lever, Path("start"), [100.0] * len(learning.TREES), 1000)
        sums = KINDS["sums"]
        made = learning.config_of(Path("out"), 1, stages, learning.problems_of(sums, Path("out")), sums)
        trained = next(s for s in validate(RunConfig, made, lever).stages if s.kind == "ppo")
        wanted = levers.LEVERS[lever].get("epochs", 1)
        assert (trained.generated_tokens, trained.epochs) == (1000, wanted), lever


def test_every_variant_of_the_rounds_is_a_run_that_can_be_made():
    rounds = importlib.import_module("tests.benchmarks.rounds")
    made = {
        name: validate(RunConfig, rounds.config_of(name, "START", Path("out"), 3), name)
        for name in rounds.VARIANTS
    }
    stages = {name: [stage.name for stage in config.stages] for name, config in made.items()}
    assert stages["whole"] == stages["few_problems"] and stages["whole"].count("r3_label") == 1
    assert [n for n in stages["labelled_once"] if n.endswith(("label", "prm", "ppo"))] == [
        "label", "prm", "r1_ppo", "r2_ppo", "r3_ppo",
    ]  # fmt: skip
    of = {name: next(s for s in config.stages if s.name == "r2_ppo") for name, config in made.items()}
    assert of["labelled_once"].prm == "prm" and of["whole"].prm == "r2_prm"
    assert {config.seed for config in made.values()} == {3}
    old, new = made["few_problems"].problems["train"], made["from_old"].problems["train"]
    assert new[:2] == old and stages["from_old"] == stages["whole"]
    assert [(s.name, s.start, s.of, s.families == o.families) for s, o in zip(new[2:], old, strict=True)] == [
        ("varied_arithmetic", 110000000, 600, True), ("varied_arithmetic", 120000000, 600, True),
    ]  # fmt: skip
    assert set(new[2].ways) == {"numbers", "longer", "combined", "turned"}
    assert made["few_problems"].problems["train"][0].size == 600 < made["whole"].problems["train"][0].size


def test_labels_are_compared_with_the_truth_of_expressions_alone(tmp_path):
    rounds = importlib.import_module("tests.benchmarks.rounds")
    steps = ["5-4=1\n", "1+3=5\n", "#### 5"]  # the second is wrong, and what follows does not count
    written = [("5-4+3", [1.0, 0.0, 0.0]), ("5-4+3", [1.0, 1.0, 1.0]), ("5-x+3=4,x", [0.0, 0.0, 0.0])]
    write_records(tmp_path, [StepLabels("p", p, steps, labels, [], [], [1, 2, 3]) for p, labels in written])
    assert rounds.label_quality(tmp_path) == (4, 1.0, 0.5)


@pytest.mark.parametrize("made", [long_sum, countdown])
def test_what_is_shown_of_a_kind_is_right_and_takes_as_long_as_it_may(made):
    kind = KINDS["long_sums" if made is long_sum else "countdown"]
    for problem, solution in map(made, range(200)):
        assert verify(problem.verifier, solution, problem.reference).status == "correct", solution
        assert len(solution) < 1.4 * kind.longest  # a token holds a character and more


def test_development_problems_are_others_than_those_reported_on_and_trained_on(learning, tmp_path):
    of = [KINDS["sums"].problems(tmp_path)[name] for name in ("development", "test", "train")]
    ranges = sorted((rows["start"], rows["start"] + rows["size"]) for sources in of for rows in sources)
    assert len(ranges) == 6 and all(a[1] <= b[0] for a, b in pairwise(ranges))
    for name in ("long_sums", "countdown"):
        written = KINDS[name].problems(tmp_path / name)
        prompts = {
            part: {json.loads(line)["prompt"] for line in Path(sources[0]["path"]).read_text().splitlines()}
            for part, sources in written.items()
        }
        assert len(set.union(*prompts.values())) == sum(map(len, prompts.values()))
        assert all(len(prompts[p]) == sources[0]["size"] for p, sources in written.items())
        # a trial never sees the problems that are reported, nor the other way round
        assert (
            learning.problems_of(KINDS[name], tmp_path, is_tried=True)["test"]
            != learning.problems_of(KINDS[name], tmp_path)["test"]
        )


def test_a_run_that_is_killed_is_a_row_that_names_the_signal(learning, tmp_path):
    row = learning.apart(lambda: os.kill(os.getpid(), signal.SIGKILL), tmp_path / "log", 60)
    assert row == {"failed": "was killed by signal 9"}
    assert learning.apart(lambda: {"right": 1}, tmp_path / "log", 60)["right"] == 1


def test_word_problems_are_of_spans_that_are_apart_and_lie_where_they_are_said_to(learning, tmp_path):
    spans = {n: {tuple(s["part"]) for s in of} for n, of in KINDS["words"].problems(tmp_path).items()}
    learned = {"demonstrations": {(0.3, 1.0)}, "train": {(0.3, 1.0)}}
    assert spans == {**learned, "development": {(0.2, 0.3)}, "test": {(0.0, 0.2)}}
    kind = words(["stages.0.model=there", "problems.dev.0.path=rows.jsonl"])
    assert learning.problems_of(kind, tmp_path, is_tried=True)["test"][0]["path"] == "rows.jsonl"
    assert not learning.problems_of(kind, tmp_path)["test"][0].get("path")
    assert kind.start[-1]["model"] == "there"
    stages = learning.stages_of("grpo", MIDDLE, Path("start"), [100.0] * len(learning.TREES), 1000, kind)
    assert (stages[0]["lora"]["r"], stages[0]["temperature"]) == (16, 0.7)
    assert stages[-1]["temperature"] == 0.7


def test_the_table_of_learning_shows_test_runs_alone_and_the_difference_from_the_peer(learning, tmp_path):
    def row(method, seed, accuracy, **more):
        of = dict.fromkeys(("sampled_all", "sampled_short", "sampled_longer", "greedy_all"), accuracy)
        costs = {"generated": 1000, "trained": 2000, "cpu_seconds": 3}
        return {"method": method, **MIDDLE._asdict(), "seed": seed, **of, **costs, **more}

    rows = [
        row("grpo_half", 1, 0.9),
        row("grpo_trl", 1, 0.9),
        row("grpo_trl", 11, 0.5),
        row("grpo_trl", 12, 0.52),
    ]
    rows += [row("grpo_half", 11, 0.51), row("grpo_half", 12, 0.53), row("grpo_half", 13, 0.0, failed="no")]
    # variances 2 of two each: standard error sqrt(2), two degrees of freedom, 4.30 · 1.414 = 6.08
    assert learning.table(rows, tmp_path, KINDS["sums"]).splitlines()[2:] == [
        "| grpo_trl | 1 | 0.0004, 1, 2 | 2 (0) | 51.0 (38.3 to 63.7) |  | 51.0 | 51.0 | 51.0 | 1,000 | 2,000 | 3 |",
        "| grpo_half | 1 | 0.0004, 1, 2 | 2 (1) | 52.0 (39.3 to 64.7) | +1.0 (-5.1 to +7.1) | 52.0 | 52.0 | 52.0 | 1,000 "
        "| 2,000 | 3 |",
    ]
    alone = learning.table([r for r in rows if r["seed"] <= 11], tmp_path, KINDS["sums"]).splitlines()[-1]
    assert "| 51.0 | +1.0 |" in alone  # of one seed there is no interval
    assert "| grpo_half | 0.0004 | 1 | 2 | 90.0 | yes |" in learning.trials_table(rows, KINDS["sums"])
