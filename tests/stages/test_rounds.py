"""Stages in rounds: the names that they become, what each reads, and that a worse policy is reported and not built upon."""

import json
from itertools import islice

import pytest
from small_models import small_lm, writes_after

from reasoner.config import ConfigError, read_yaml, save_resolved, validate
from reasoner.pipeline import RunConfig, check, run
from reasoner.policy.models import load_model, save, train_tokenizer
from reasoner.records import StepLabels
from reasoner.report.rows import from_json
from reasoner.stages.context import turned
from reasoner.store import read_records, read_trees


def config(*stages: dict, out="nowhere", **repeat) -> RunConfig:
    """Rounds of the stages, which begin with the model M."""
    rounds = {"kind": "repeat", "rounds": 2, "first": {"keep": "M"}, **repeat, "stages": list(stages)}
    problems = {name: [{"name": "jsonl", "path": "x"}] for name in ("train", "dev")}
    return validate(RunConfig, {"out": str(out), "problems": problems, "stages": [rounds]}, "test")


ROUND = (
    {"kind": "rollout", "model": "keep"},
    {"kind": "verify", "model": "keep"},
    {"kind": "complete", "model": "keep", "version": 0},
    {"kind": "label", "model": "keep", "trees": "complete"},
    {"kind": "prm", "model": "keep"},
    {"kind": "ppo", "model": "keep", "prm": "prm", "critic": "other/critic"},
    {
        "kind": "evaluate",
        "name": "seen",
        "policies": ["keep", "ppo"],
        "sampled": ["ppo"],
        "problems": ["dev"],
    },
    {"kind": "keep", "models": ["keep", "ppo"]},
)


def test_each_round_has_stages_of_its_own_that_read_its_own_and_those_before():
    stages = {s.name: s for s in config(*ROUND).stages}
    assert list(stages) == [
        f"r{n}_{s}" for n in (1, 2) for s in ("rollout", "verify", "complete", "label", "prm", "ppo", "seen", "keep")
    ]  # fmt: skip
    assert [stages[f"r{n}_rollout"].model for n in (1, 2)] == ["M", "r1_keep"]
    assert stages["r2_verify"].trees == "r2_rollout"  # by default, as where it is written
    assert stages["r2_complete"].trees == "r2_verify" and stages["r2_label"].trees == "r2_complete"
    assert stages["r2_prm"].labels == "r2_label"
    assert (stages["r2_ppo"].prm, stages["r2_ppo"].critic) == ("r2_prm", "other/critic")
    assert (stages["r2_seen"].policies, stages["r2_seen"].sampled) == (["r1_keep", "r2_ppo"], ["r2_ppo"])
    assert [stages[f"r{n}_keep"].models for n in (1, 2)] == [["M", "r1_ppo"], ["r1_keep", "r2_ppo"]]
    # what counts rounds or versions has the round's number
    assert [stages[f"r{n}_rollout"].of_round for n in (1, 2)] == [1, 2]
    assert stages["r2_ppo"].of_round == 2 and stages["r2_complete"].version == 2


def test_another_name_and_one_round():
    stages = config(*ROUND[:2], {"kind": "keep", "models": ["keep", "N"]}, name="lap", rounds=1).stages
    assert [s.name for s in stages] == ["lap1_rollout", "lap1_verify", "lap1_keep"]


def test_the_resolved_config_has_the_stages_as_they_are_run(tmp_path):
    whole = config(*ROUND)
    save_resolved(whole, tmp_path / "config.yaml")
    again = validate(RunConfig, read_yaml(tmp_path / "config.yaml"), "resolved")
    assert again == whole and len(again.stages) == 16


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"first": {}}, "the first round reads 'keep' of a round before it"),
        ({"first": {"keep": "M", "kepe": "M"}}, "first names 'kepe'"),
        ({"rounds": 0}, "stages.0.rounds: got 0"),
        ({"stages": [{"kind": "rollout", "modle": "M"}]}, "did you mean model"),
    ],
)
def test_what_does_not_fit_is_one_line(change, part):
    rounds = {"kind": "repeat", "rounds": 2, "first": {"keep": "M"}, "stages": list(ROUND), **change}
    with pytest.raises(ConfigError, match=part):
        validate(RunConfig, {"problems": {}, "stages": [rounds]}, "test")


def test_names_outside_are_checked_as_ever(tmp_path):
    raw = {"out": str(tmp_path), "problems": {"train": [{"name": "gsm8k"}], "dev": [{"name": "gsm8k"}]}}
    rounds = {"kind": "repeat", "rounds": 1, "first": {"keep": "nowhere"}, "stages": [ROUND[0]]}
    stages = [rounds | {"stages": [*rounds["stages"], {"kind": "keep", "models": ["keep", "keep"]}]}]
    with pytest.raises(Exception, match=r"stages\.r1_rollout\.model is 'nowhere'"):
        check(validate(RunConfig, {**raw, "stages": stages}, "test"))


def test_rounds_go_on_in_the_order_of_the_problems():
    order = ["a", "b", "c", "d", "e"]
    assert [turned(order, 2 * number)[:2] for number in range(4)] == [
        ["a", "b"],
        ["c", "d"],
        ["e", "a"],
        ["b", "c"],
    ]
    assert turned([], 3) == []


WORSE = {
    "3+4": "3+4=7\n",
    "5+6": "5+6=12\n",
    "3+4=7\n": "#### 7",
    "5+6=12\n": "#### 12",
    "5+6=11\n": "#### 11",
}
BETTER = WORSE | {"5+6": "5+6=11\n"}


def test_two_rounds_whose_second_policy_is_worse(tmp_path):
    """The better model stands behind both rounds; trees, labels and what was measured are kept apart."""
    tokenizer = train_tokenizer(["3+4=7"], 270)
    tokenizer.add_tokens(sorted({*WORSE, *WORSE.values(), "5+6=11\n"}))
    number = tokenizer.convert_tokens_to_ids
    for name, chains in (("better", BETTER), ("worse", WORSE)):
        ends = {**chains, **dict.fromkeys(("#### 7", "#### 11", "#### 12"), "<|endoftext|>")}
        lm = small_lm("llama", vocab_size=len(tokenizer), tie_word_embeddings=False)
        save(writes_after(lm, {number(a): number(b) for a, b in ends.items()}), tokenizer, tmp_path / name)
    for name, problems in {"dev": {"3+4": "7", "5+6": "11"}, "train": {"1+6": "7", "7+4": "11"}}.items():
        rows = [json.dumps({"prompt": p, "answer": a}) for p, a in problems.items()]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    better, worse = str(tmp_path / "better"), str(tmp_path / "worse")
    stages = [
        {"kind": "rollout", "model": "keep", "num_problems": 1, "max_tokens": 8, "tree": {"num_roots": 2, "num_points": 0}},
        {"kind": "label", "model": "keep", "trees": "rollout", "kinds": ["hard"]},
        {"kind": "keep", "models": ["keep", worse], "max_tokens": 8},
    ]  # fmt: skip
    raw = {
        "out": str(tmp_path / "run"),
        "problems": {n: [{"name": "jsonl", "path": str(tmp_path / f"{n}.jsonl")}] for n in ("train", "dev")},
        "stages": [{"kind": "repeat", "rounds": 2, "first": {"keep": better}, "stages": stages}],
    }  # fmt: skip
    run(validate(RunConfig, raw, "test"))
    out = tmp_path / "run"
    for n in (1, 2):
        kept = load_model(str(out / f"models/r{n}_keep/model")).state_dict()
        assert all((kept[k] == v).all() for k, v in load_model(better).state_dict().items())
        measured = {
            (r.metric, r.when): (r.value, r.n)
            for r in from_json((out / f"stages/r{n}_keep/rows.json").read_text())
        }
        assert measured["pass@1", "worse"] == (0.5, 2) and -0.5 in {v for v, _ in measured.values()}
    trees = [list(read_trees(out / f"trees/r{n}_rollout")) for n in (1, 2)]
    assert [len(t) for t in trees] == [1, 1] and trees[0][0].problem.prompt != trees[1][0].problem.prompt
    assert [t[0].nodes[1].weights_version for t in trees] == [1, 2]
    labels = [list(islice(read_records(out / f"records/r{n}_label/hard", StepLabels), 5)) for n in (1, 2)]
    assert [{r.weights_version for r in found} for found in labels] == [{1}, {2}]
