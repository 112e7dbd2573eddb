"""reasoner solve and reasoner evaluate, as a user calls them."""

import json

import pytest
from small_models import save_small_qwen

from reasoner.cli import app
from reasoner.evals.solve import printable
from reasoner.registry import UserError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_small_qwen(tmp_path_factory.mktemp("lm"), ["1+2=\n3\n#### 3 and 4 5 6 7"], 300))


def call(*arguments: str) -> None:
    app(list(arguments), standalone_mode=False)


def test_solve_answers_and_says_what_it_took(model, capsys):
    call("solve", model, "1+2", "--method", "majority", "--budget", "3", "--max-tokens", "8", "--json")
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"answer", "confidence", "votes", "drawn", "text", "counts", "seconds"}
    assert found["drawn"] == "independent"
    assert 3 <= found["counts"]["policy"]["decoded"] <= 24
    call("solve", model, "1+2", "first=2", "--method", "early_stop", "--budget", "4", "--max-tokens", "8")
    assert "tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "magic"), "got method 'magic'"),
        (("--method", "beam"), "expected --prm FOLDER"),
        (("widht=3", "--method", "beam"), "unknown key"),
        (("--method", "best_of", "--prm", "/nowhere"), "expected a Hugging Face model folder"),
    ],
)
def test_what_cannot_be_done_is_one_line(model, arguments, message):
    with pytest.raises(UserError, match=message):
        call("solve", model, "1+2", *arguments)


def test_evaluate_replays_a_file(tmp_path, capsys):
    path = tmp_path / "made_elsewhere.jsonl"
    path.write_text(json.dumps({"id": 1, "correct": [True, False, False, False]}) + "\n")
    call("evaluate", "--replay", str(path), "--k", "2", "--json")
    (row, *_) = json.loads(capsys.readouterr().out)
    assert (row["metric"], row["value"], row["when"], row["n"]) == ("pass@2", 0.5, "made_elsewhere", 1)
    with pytest.raises(UserError, match="neither CONFIG nor --replay"):
        call("evaluate")
    with pytest.raises(UserError, match="expected whole numbers"):
        call("evaluate", "--replay", str(path), "--k", "two")


def test_a_replay_without_answers_says_so_in_its_last_line(tmp_path, capsys):
    problems, config = tmp_path / "problems.jsonl", tmp_path / "config.yaml"
    problems.write_text(json.dumps({"prompt": "1+1", "answer": "2"}) + "\n")
    config.write_text(
        f"problems: {{test: [{{name: jsonl, path: {problems}}}]}}\n"
        "stages: [{kind: evaluate, name: e, policies: [p], problems: [test]}]\n"
    )
    path = tmp_path / "made_elsewhere.jsonl"
    without, right = "I will look at this problem from more than one side", "#### 2"
    for responses, share in (([without, without, right], "67%"), ([without, right, right], None)):
        path.write_text(json.dumps({"prompt": "1+1", "responses": responses}) + "\n")
        call("evaluate", str(config), "--replay", str(path), "--k", "1")
        lines = capsys.readouterr().err.strip().split("\n")
        if share:
            assert (
                lines[-1].startswith(f"{share} of 3 responses (made_elsewhere)")
                and "rule 'auto'" in lines[-1]
            )
        else:
            assert "no final answer" not in lines[-1]


def test_model_text_cannot_act_on_the_terminal():
    assert "\x1b" not in printable("\x1b[2J red\x07") and printable("a\nb") == "a\nb"
    assert len(printable("x" * 10_000)) < 500
