"""The script for a GPU, tried on this CPU: each of its parts gives its lines, and a part that fails is told."""

import json
import re
from pathlib import Path

import pytest
from small_models import save_small_qwen

from reasoner import api
from reasoner.config import read_yaml
from tests.benchmarks.engine import STORIES
from tests.benchmarks.gpu import main, problems

RUN = Path(__file__).parent.parent / "configs/smollm2/grpo.yaml"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small model that is right now and then on the problems that the script trains on."""
    folder = tmp_path_factory.mktemp("model")
    rows = list(problems(8, 0))
    prompt = read_yaml(RUN)["prompt"]
    texts = [
        prompt["template"].replace("{prompt}", row["prompt"]) + row["solution"] + " =\n\n\n" for row in rows
    ]
    start = save_small_qwen(folder / "start", texts, 400)
    options = {"max_steps": 25, "batch_size": 8, "optimizer": {"name": "muon", "lr": 0.02}}
    return api.train("sft", start, folder / "sft", problems=rows, prompt=prompt, **options)


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> Path:
    """The run without rejection sampling, which needs right answers, and this small model is hardly ever right."""
    raw = read_yaml(RUN)
    raw["stages"] = [s for s in raw["stages"] if s.get("name", s["kind"]) in ("grpo", "sft", "evaluate")]
    raw["stages"][-1]["policies"].remove("rejection")
    path = tmp_path_factory.mktemp("run") / "short.yaml"
    path.write_text(json.dumps(raw))
    return path


def script(monkeypatch, capsys, *arguments) -> tuple[int, list[str]]:
    """Its exit code, and the lines of the table."""
    monkeypatch.setattr("sys.argv", ["gpu", *map(str, arguments)])
    code = main()
    return code, capsys.readouterr().out.partition(" s in all\n")[2].splitlines()


def test_the_table_has_a_line_for_everything(model, short, monkeypatch, capsys):
    sizes = ("--config", short, "--batches", 4, "--tokens", 8, "--rounds", 1, "--problems", 8, "--long", 80)
    code, table = script(monkeypatch, capsys, model, "--parts", "decode", "attention", "stages", *sizes)
    assert code == 0, table
    assert "CPU, " in table[0] and any("batch 4" in line and "generate " in line for line in table)
    packed = [line for line in table if line.startswith("packed tree")]
    assert [line.split()[2:4] for line in packed[:2]] == [["by", "blocks"], ["by", "a"]]
    assert "(1, 650) positions" in packed[0] and float(packed[2].split()[3]) < 1e-4  # log-probabilities apart
    stages = {line.split()[1] for line in table if line.startswith("stage ")}
    assert stages == {s.get("name", s["kind"]) for s in read_yaml(short)["stages"]}
    assert any(line.startswith("peak memory") for line in table) and any(
        "greedily, grpo" in line for line in table
    )


def test_a_part_that_fails_or_comes_late_is_told(tmp_path, monkeypatch, capsys):
    code, table = script(monkeypatch, capsys, tmp_path / "none", "--parts", "decode", "--minutes", 1)
    assert code == 1 and "FAILED" in table[-1]
    code, table = script(monkeypatch, capsys, tmp_path / "none", "--parts", "stages", "--minutes", 0)
    assert code == 0 and "left out" in table[-1]


def test_the_answers_are_those_of_the_stories():
    expected = [lambda a, b, c: a * b - c] * 2 + [lambda a, b, c: a * b + c] * 2  # as read in the stories
    for story, answer, told in zip(STORIES, expected, problems(4, 0), strict=True):
        form = re.escape(story)
        for letter in "abc":
            form = form.replace(re.escape("{" + letter + "}"), rf"(?P<{letter}>\d+)")
        numbers = {k: int(v) for k, v in re.fullmatch(form, told["prompt"]).groupdict().items()}
        assert int(told["answer"]) == answer(**numbers) > 0
        assert told["solution"].endswith(f" = {told['answer']}")
    assert not {p["prompt"] for p in problems(64, 0)} & {p["prompt"] for p in problems(64, 1)}
