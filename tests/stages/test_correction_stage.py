"""The whole stage on two policies whose every token is known: one goes on from a wrong step, the other goes back."""

import json

import pytest
from small_models import small_lm, writes_after

from reasoner.config import validate
from reasoner.pipeline import RunConfig, measured_on, run
from reasoner.policy.models import save, train_tokenizer
from reasoner.registry import UserError
from reasoner.report.rows import from_json

# after a prompt or a step, what comes next; "3+4" is solved, "5+6" is not
CHAINS = {
    "3+4": "3+4=7\n",
    "3+4=7\n": "#### 7",
    "#### 7": "<|endoftext|>",
    "5+6": "5+6=12\n",
    "#### 12": "<|endoftext|>",
}
SLIPS = [f"3+4={n}\n" for n in (5, 6, 8, 9, 17)]
GOES_ON = CHAINS | {"5+6=12\n": "#### 12"} | dict.fromkeys(SLIPS, "#### 12")
GOES_BACK = CHAINS | {"5+6=12\n": "no\n", "no\n": "3+4=7\n"} | dict.fromkeys(SLIPS, "no\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Both policies, and the problems in a file."""
    place = tmp_path_factory.mktemp("policies")
    tokenizer = train_tokenizer(["3+4=7"], 270)
    tokenizer.add_tokens(sorted({*GOES_ON, *GOES_BACK, "no\n"} - {"<|endoftext|>"}))
    number = tokenizer.convert_tokens_to_ids
    for name, chains in (("goes_on", GOES_ON), ("goes_back", GOES_BACK)):
        lm = small_lm("llama", vocab_size=len(tokenizer), tie_word_embeddings=False)
        save(writes_after(lm, {number(a): number(b) for a, b in chains.items()}), tokenizer, place / name)
    rows = ({"prompt": p, "answer": a} for p, a in (("3+4", "7"), ("5+6", "11")))
    (place / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return place


def raw(folder, out, policies) -> dict:
    stage = {"kind": "self_correction", "policies": [str(folder / p) for p in policies], "link": "no\n",
             "num_samples": 2, "temperature": 0.01, "max_tokens": 8}  # fmt: skip
    problems = {"held_out": [{"name": "jsonl", "path": str(folder / "test.jsonl")}]}
    return {"out": str(out), "problems": problems, "stages": [{**stage, "problems": ["held_out"]}]}


def test_what_is_noticed_and_mended(folder, tmp_path):
    config = validate(RunConfig, raw(folder, tmp_path / "run", ["goes_on", "goes_back"]), "test")
    assert "held_out" in measured_on(config)
    run(config)
    rows = from_json((tmp_path / "run/stages/self_correction/rows.json").read_text())
    found = {(row.metric, row.method, row.when): (row.value, row.n) for row in rows}
    expected = {
        ("pass@1", "greedy", "goes_on"): (0.5, 2), ("pass@1", "sampled", "goes_back"): (0.5, 2),
        # one right chain to plant an error in; what comes of it
        ("noticed", "planted", "goes_on"): (0, 1), ("mended", "planted", "goes_on"): (0, 1),
        ("noticed", "planted", "goes_back"): (1, 1), ("mended", "planted", "goes_back"): (1, 1),
        ("false_alarm", "unchanged", "goes_back"): (0, 1), ("mended", "unchanged", "goes_back"): (1, 1),
        # 5+6=12 is noticed, and what follows is wrong again
        ("noticed", "goes_on's error", "goes_on"): (0, 1), ("noticed", "goes_on's error", "goes_back"): (1, 1),
        ("mended", "goes_on's error", "goes_back"): (0, 1), ("noticed", "own error", "goes_back"): (1, 1),
        ("mended_gain", "planted", "goes_back over goes_on"): (1, 1),
        ("noticed_gain", "goes_on's error", "goes_back over goes_on"): (1, 1),
        ("pass@1_gain", "greedy", "goes_back over goes_on"): (0, 2),
    }  # fmt: skip
    assert {key: found.get(key) for key in expected} == expected


def test_chains_without_a_calculation_are_one_clear_line(folder, tmp_path):
    config = raw(folder, tmp_path / "run", ["goes_on"])
    (folder / "words.jsonl").write_text(json.dumps({"prompt": "5+6", "answer": "11"}))
    config["problems"]["held_out"][0]["path"] = str(folder / "words.jsonl")
    with pytest.raises(UserError, match="no right chain of goes_on holds a written calculation"):
        run(validate(RunConfig, config, "test"))
