"""Mixtures of problem sets: shares by hand, exact counts, sets that run dry, shares that move, and what was really seen."""

import json
from collections import Counter
from itertools import accumulate

import pytest
from small_models import CORRECT, ERROR, TINY, WRONG, make_tree

from reasoner.config import ConfigError, validate
from reasoner.data.mixing import Mixture, mixed, shares
from reasoner.pipeline import RunConfig, run
from reasoner.registry import UserError
from reasoner.stages import sft
from reasoner.trainers.seen import Seen, note_seen, table
from reasoner.trainers.sft import train_sft


def mixture(**options) -> Mixture:
    return validate(Mixture, options, "test")


def test_shares_by_hand():
    assert shares({"a": 3, "b": 1, "c": 0}, 1) == {"a": 0.75, "b": 0.25, "c": 0.0}
    assert shares({"a": 9, "b": 1}, 2) == {"a": 0.75, "b": 0.25}  # 3 : 1
    assert shares({"a": 3, "b": 1}, 0.5) == {"a": 0.9, "b": 0.1}
    assert shares({"a": 0}, 1) == {"a": 0.0}


def test_counts_are_exact_to_one_from_the_first_draw_on():
    sets = {"a": ["a1", "a2", "a3"], "b": ["b1", "b2"], "c": ["c1"]}
    found = mixed(sets, 5, 12, mixture(weights={"a": 6, "b": 3, "c": 1}), "0")
    assert len(found) == 60 and all(item.startswith(name) for name, item in found)
    for name, share in (("a", 0.6), ("b", 0.3), ("c", 0.1)):
        for drawn, times in enumerate(accumulate(n == name for n, _ in found), start=1):
            assert abs(times - share * drawn) < 1
    of_a = [item for name, item in found if name == "a"]
    assert all(sorted(of_a[i : i + 3]) == sets["a"] for i in range(0, 36, 3))
    assert len({tuple(of_a[i : i + 3]) for i in range(0, 36, 3)}) > 1  # each pass in an order of its own
    assert mixed(sets, 5, 12, mixture(weights={"a": 6, "b": 3, "c": 1}), "0") == found
    assert mixed(sets, 5, 12, mixture(weights={"a": 6, "b": 3, "c": 1}), "1") != found


def test_without_weights_each_problem_counts_the_same():
    sets = {"a": list("pqrstu"), "b": list("xy")}
    assert Counter(item for _, item in mixed(sets, 2, 8, mixture(), "0")) == dict.fromkeys("pqrstuxy", 2)


def test_where_a_set_runs_dry_the_others_take_its_place():
    sets = {"a": ["p", "q"], "b": list("vwxyz")}
    found = mixed(sets, 1, 12, mixture(weights={"a": 9, "b": 1}, max_repeats=2), "0")
    assert Counter(item for _, item in found[:5]) | {} == Counter(p=2, q=2) + Counter(
        i for n, i in found[:5] if n == "b"
    )
    assert (
        Counter(name for name, _ in found) == {"a": 4, "b": 8}
        and max(Counter(i for _, i in found).values()) == 2
    )
    assert len(mixed(sets, 1, 30, mixture(weights={"a": 9, "b": 1}, max_repeats=2), "0")) == 14
    assert {
        name for name, _ in mixed(sets, 1, 30, mixture(weights={"a": 1, "b": 0}, max_repeats=2), "0")
    } == {"a"}


def test_shares_move_round_by_round_to_those_at_the_end():
    sets = {"a": list("pq"), "b": list("xy")}
    found = mixed(sets, 5, 8, mixture(weights={"a": 1, "b": 0}, at_end={"a": 0, "b": 1}), "0")
    by_round = [Counter(n for n, _ in found[i : i + 8])["b"] for i in range(0, 40, 8)]
    assert by_round == [0, 2, 4, 6, 8]


def test_what_was_seen_is_counted_by_set():
    trees = [
        make_tree([1], (0, 1, [5, 6], [1]), (0, 1, [7], [0]), verdicts={1: CORRECT, 2: WRONG}, name="p"),
        make_tree([1], (0, 1, [5], [0]), verdicts={1: ERROR}, name="q"),
        make_tree([1], (0, 1, [5], [0]), verdicts={1: CORRECT}, name="p"),
    ]
    sets = {"p": "a", "q": "b", "r": "c"}
    seen: Seen = {}
    assert note_seen(trees, sets, seen) == {"seen_a": 2.0, "seen_b": 1.0, "seen_c": 0.0}
    assert note_seen(trees[:1], sets, seen) == {"seen_a": 1.0, "seen_b": 0.0, "seen_c": 0.0}
    assert table(seen) == [
        {"set": "a", "share": 0.75, "drawn": 3, "distinct": 1, "most_times": 3, "tokens": 7, "right": 3 / 5},
        {"set": "b", "share": 0.25, "drawn": 1, "distinct": 1, "most_times": 1, "tokens": 1, "right": None},
    ]  # fmt: skip


def config_of(tmp_path, **options):
    for name, numbers in (("a", range(6)), ("b", range(6, 8))):
        rows = [{"id": f"n{i}", "prompt": f"{i}+1", "answer": str(i + 1)} for i in numbers]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    stage = {
        "kind": "ppo", "model": "base", "problems": ["a", "b"], "rounds": 3, "problems_per_round": 4, "max_tokens": 3,
        "tree": {"num_roots": 2, "num_points": 0}, "advantage": {"method": "rloo"}, **options,
    }  # fmt: skip
    return {
        "out": str(tmp_path / "run"),
        "problems": {n: [{"name": "jsonl", "path": str(tmp_path / f"{n}.jsonl")}] for n in "ab"}
        | {"demonstrations": [{"name": "jsonl", "path": str(tmp_path / "a.jsonl")}]},
        "stages": [{"kind": "init", **TINY}, stage],
    }


def test_a_run_draws_by_its_mixture_and_tells_what_it_saw(tmp_path):
    options = {"weights": {"a": 1, "b": 3}, "max_repeats": 3}
    run(validate(RunConfig, config_of(tmp_path, mixture=options), "test"))
    rows = [json.loads(line) for line in (tmp_path / "run/stages/ppo/metrics.jsonl").open()]
    rounds = [row for row in rows if "ppo/seen_a" in row]
    assert [(row["ppo/seen_a"], row["ppo/seen_b"]) for row in rounds] == [(1, 3), (1, 3), (4, 0)]
    assert next(row["mixture/ran_dry"] for row in rows if "mixture/ran_dry" in row) == ["b"]
    (last,) = [row["mixture"] for row in rows if "mixture" in row]
    told = [(r["set"], r["share"], r["drawn"], r["distinct"], r["most_times"]) for r in last]
    assert told == [("a", 0.5, 6, 6, 1), ("b", 0.5, 6, 2, 3)]
    assert all(r["tokens"] > 0 for r in last)


@pytest.mark.parametrize(("options", "why"), [
    ({"mixture": {"weights": {"a": 1, "c": 1}}}, "mixture names 'c'"),
    ({"mixture": {"at_end": {"a": 1}}, "generated_tokens": 100}, "at_end with generated_tokens"),
    ({"mixture": {"max_repeats": 1}, "generated_tokens": 100}, "max_repeats with generated_tokens"),
    ({"mixture": {"at_end": {"a": 1}}, "curriculum": {}}, "at_end with curriculum"),
    ({"mixture": {"weights": {"a": -1}}}, "greater than or equal to 0"),
])  # fmt: skip
def test_mixtures_that_cannot_be_are_refused(tmp_path, options, why):
    with pytest.raises(ConfigError, match=why):
        validate(RunConfig, config_of(tmp_path, **options), "test")


def test_sets_that_run_dry_before_the_end_are_refused(tmp_path):
    asked = validate(RunConfig, config_of(tmp_path, mixture={"max_repeats": 1}), "test")
    with pytest.raises(UserError, match=r"8 draws.*takes 12.*raise max_repeats"):
        run(asked)


# --- imitation ---


def imitating(tmp_path, **options) -> dict:
    config = config_of(tmp_path)
    for name in "ab":
        path = tmp_path / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("\n".join(json.dumps(row | {"solution": row["answer"]}) for row in rows))
    stage = {"kind": "sft", "model": "base", "problems": ["a", "b"], "batch_size": 4, **options}
    return config | {"stages": [config["stages"][0], stage]}


def test_imitation_shows_its_sets_in_the_mixtures_shares(tmp_path, monkeypatch):
    imitated: list[tuple[list[str], float]] = []

    def train(model, shown, config, session):
        imitated.append(([e.completion for e in shown], config.epochs))
        train_sft(model, shown, config, session)

    monkeypatch.setattr(sft, "train_sft", train)
    asked = imitating(tmp_path, mixture={"weights": {"a": 1, "b": 3}}, epochs=2)
    run(validate(RunConfig, asked, "test"))
    ((shown, epochs),) = imitated
    # two passes over eight demonstrations, of which those of b answer 7 and 8
    assert epochs == 1 and Counter(shown)["7"] == Counter(shown)["8"] == 6 and len(shown) == 16
    assert (tmp_path / "run/models/sft/model/model.safetensors").is_file()
    rows = [json.loads(line) for line in (tmp_path / "run/stages/sft/metrics.jsonl").open()]
    (seen,) = [row["mixture"] for row in rows if "mixture" in row]
    told = [(r["set"], r["share"], r["drawn"], r["distinct"], r["most_times"]) for r in seen]
    assert told == [("a", 0.25, 4, 4, 1), ("b", 0.75, 12, 2, 6)]


@pytest.mark.parametrize(("options", "why"), [
    ({"mixture": {"weights": {"a": 1, "c": 1}}}, "mixture names 'c'.*expected one of: a, b"),
    ({"mixture": {"at_end": {"a": 1}}}, "got mixture with mixture.at_end"),
    ({"mixture": {}, "max_seconds": 5}, "got mixture with max_seconds"),
])  # fmt: skip
def test_mixtures_that_cannot_be_imitated_are_refused(tmp_path, options, why):
    with pytest.raises(ConfigError, match=why):
        validate(RunConfig, imitating(tmp_path, **options), "test")


def test_too_few_demonstrations_for_so_many_updates_are_refused(tmp_path):
    asked = validate(RunConfig, imitating(tmp_path, mixture={"max_repeats": 1}, max_steps=3), "test")
    with pytest.raises(UserError, match=r"8 draws.*takes 12.*raise max_repeats"):
        run(asked)
