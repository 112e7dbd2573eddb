"""Choice of problems: predictions by hand, what is drawn, and a predictor that is wrong on purpose does no harm."""

import random
from collections import Counter

import pytest

from reasoner.data.rows import SourceConfig
from reasoner.data.sources import load_items
from reasoner.registry import UserError
from reasoner.trainers import curriculum
from reasoner.trainers.curriculum import Answers, Curriculum, History, choose, expected, is_trusted, observe
from reasoner.tree import Problem


def problem(number: int, prompt: str = "aaaa", domain: str = "short") -> Problem:
    return Problem(f"p{number}", prompt, "math", {}, domain, "made")


def answers(of: Problem, right: int, wrong: int, at_random: bool = True, liked: bool = True) -> Answers:
    return Answers(of, right, wrong, at_random, liked)


def test_a_prediction_by_hand():
    """Kind, length and problem in turn, each with the one before it as four answers; answers count half after a round."""
    config, history = Curriculum(prior=4, decay=0.5), History()
    seen, like_it, longer, other = (
        problem(0),
        problem(1),
        problem(2, "a" * 40),
        problem(3, domain="longer"),
    )
    observe(history, [answers(seen, 6, 2)], 0, config)
    for p in (seen, like_it, longer, other):
        a, b = expected(p, history, config, 0)
        # 8/12; then (6 + 4·2/3) / 12, then (6 + 4·0.7222) / 12
        mean = {"p0": (6 + 4 * 26 / 36) / 12, "p1": 26 / 36, "p2": 2 / 3, "p3": 0.5}[p.id]
        assert a / (a + b) == pytest.approx(mean), p.id
        assert a + b == pytest.approx(12 if p is seen else 4)
    a, b = expected(seen, history, config, 1)
    # 3 and 1 are left: 5/8, then (3 + 2.5) / 8, then (3 + 2.75) / 8
    assert (a, b) == pytest.approx((5.75, 2.25))
    observe(history, [], 40, config)
    assert history.counts == {}  # faded, and let go


def test_it_learns_from_the_ways_that_problems_were_made_by():
    """Other numbers were solved, turned ones never, one more step half of the time: new problems of that way are drawn."""
    families = {"chain_sum": {"min_terms": 2, "max_terms": 3, "max_digits": 1}}
    ways = {"numbers": 1, "longer": 1, "turned": 1}
    config = SourceConfig(name="varied_arithmetic", of=80, size=400, families=families, ways=ways)
    problems = [item.problem for item in load_items(config)]
    seen, new = problems[:200], problems[200:]
    rates = {"numbers": (8, 0), "longer": (4, 4), "turned": (0, 8)}
    rules, history = Curriculum(uniform=0.01), History()
    observe(history, [answers(p, *rates[p.domain.split("/")[1]]) for p in seen], 0, rules)
    means = {way: [] for way in rates}
    for p in new:
        a, b = expected(p, history, rules, 0)
        means[p.domain.split("/")[1]].append(a / (a + b))
    assert all(len(of) > 20 for of in means.values())
    assert min(means["numbers"]) > 0.8 and max(means["turned"]) < 0.2
    assert all(0.4 < mean < 0.6 for mean in means["longer"])
    chosen, _ = choose(new, 0, 30, history, Curriculum(candidates=4, uniform=0.01), 1, "")
    of_choice = Counter(new[c.index].domain.split("/")[1] for c in chosen if not c.at_random)
    assert of_choice["longer"] >= 27 and sum(of_choice.values()) == 29


def by_name(problems, history, config, round, rng):
    """Says 0.0, 0.1, … 0.9 of the problems p0, p1, …"""
    return [int(p.id[1:]) % 10 / 10 for p in problems]


def test_what_is_chosen():
    config = Curriculum(candidates=4, uniform=0.25, predictor=f"{__name__}:by_name")
    problems = [problem(i) for i in range(20)]
    choices, looked_at = choose(problems, 12, 4, History(), config, 0, "")
    assert looked_at == 16  # p12 … p19, p0 … p7
    assert [c.index for c in choices] == [12, 14, 15, 5]  # one as it comes, then those nearest to one half
    assert [c.at_random for c in choices] == [True, False, False, False]
    assert [c.liked for c in choices] == [False, True, True, True]
    few, looked_at = choose(problems[:3], 0, 5, History(), config, 0, "")
    assert [c.index for c in few] == [0, 1, 2, 0, 1] and looked_at == 5
    with pytest.raises(UserError, match="history"):
        choose(problems, 0, 4, History(), Curriculum(predictor="histroy"), 0, "")


def test_a_choice_hangs_on_its_place_alone():
    problems = [problem(i) for i in range(64)]
    chosen = [choose(problems, 0, 8, History(), Curriculum(), 0, place)[0] for place in ("a", "a", "b")]
    assert chosen[0] == chosen[1] != chosen[2]


def test_trust():
    config, history = Curriculum(decay=1.0), History()
    assert is_trusted(history)
    observe(history, [answers(problem(i), 2, 2, liked=False) for i in range(9)], 0, config)
    observe(history, [answers(problem(i), 4, 0, liked=True) for i in range(9)], 0, config)
    assert not is_trusted(history)  # 0 of 9 are mixed, 9 of 9 of the others
    chosen, _ = choose([problem(i) for i in range(64)], 0, 8, history, config, 0, "")
    assert [(c.index, c.at_random) for c in chosen] == [(i, True) for i in range(8)]
    observe(history, [answers(problem(i), 2, 2, at_random=False) for i in range(99)], 0, config)
    assert not is_trusted(history)  # what the predictor chose says nothing about it
    observe(history, [answers(problem(i), 2, 2) for i in range(40)], 0, config)
    assert is_trusted(history)


def always_wrong(problems, history, config, round, rng):
    """One half for what is solved always or never, 0 for the rest."""
    return [0.0 if RATES[p.prompt] == 0.5 else 0.5 for p in problems]


RATES = {"a": 0.0, "aaaa": 0.5, "a" * 16: 1.0, "a" * 64: 1.0}


def useful(predictor: str, seed: int) -> float:
    """The share of problems with right and wrong answers side by side that 60 rounds of 16 draw; a quarter is such."""
    config, history, cursor, noise = Curriculum(predictor=predictor), History(), 0, random.Random(seed)
    prompts = list(RATES)
    problems = [problem(i, noise.choice(prompts)) for i in range(2000)]
    mixed = Counter[bool]()
    for round in range(60):
        choices, looked_at = choose(problems, cursor, 16, history, config, round, f"{seed} {round}")
        cursor += looked_at
        seen = []
        for c in choices:
            right = sum(noise.random() < RATES[problems[c.index].prompt] for _ in range(8))
            seen.append(answers(problems[c.index], right, 8 - right, c.at_random, c.liked))
            mixed[0 < right < 8] += 1
        observe(history, seen, round, config)
    return mixed[True] / mixed.total()


@pytest.mark.parametrize("seed", range(3))
def test_history_finds_what_can_be_learned_from(seed):
    assert useful("history", seed) > 0.6


@pytest.mark.parametrize("seed", range(3))
def test_a_predictor_that_is_wrong_on_purpose_is_not_followed(seed, monkeypatch):
    assert useful(f"{__name__}:always_wrong", seed) > 0.2
    monkeypatch.setattr(curriculum, "is_trusted", lambda history: True)
    assert useful(f"{__name__}:always_wrong", seed) < 0.1


@pytest.mark.parametrize("right", [0, 8])
def test_problems_that_are_all_solved_or_all_unsolved(right):
    config, history, problems = Curriculum(), History(), [problem(i) for i in range(40)]
    for round in range(50):
        choices, _ = choose(problems, 8 * round, 8, history, config, round, f"{round}")
        assert len(choices) == 8
        seen = [answers(problems[c.index], right, 8 - right, c.at_random, c.liked) for c in choices]
        observe(history, seen, round, config)
    assert is_trusted(history)
