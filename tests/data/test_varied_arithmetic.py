"""Expressions made from old ones: each way by hand and by family, what is dropped, and places that have their problem."""

import random
import re
import warnings
from decimal import Decimal

import pytest

from reasoner.data.demonstrator import parse_expression, work_out
from reasoner.data.rows import SourceConfig
from reasoner.data.sources import load_items
from reasoner.data.varied_arithmetic import (
    checked,
    combined,
    like,
    longer,
    numbers,
    old_expressions,
    turned,
    undone,
)
from reasoner.data.ways import Dropped, Old
from reasoner.data.working import check_working, written_steps
from reasoner.policy.models import train_tokenizer
from reasoner.registry import UserError
from verifiers import verify
from verifiers.arithmetic_steps import check_steps

FOUR = {"numbers": 1, "longer": 1, "combined": 1, "turned": 1}
FAMILIES = {
    "chain_sum": {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 1, "share": 4},
    "basic_arithmetic": {"min_terms": 3, "max_terms": 3, "min_digits": 1, "max_digits": 2, "share": 4},
    "products": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
    "gcd": {"min_numbers": 2, "max_numbers": 2, "max_value": 20, "share": 2},
    "lcm": {"min_numbers": 2, "max_numbers": 2, "max_value": 15},
    "decimal_chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1,
                          "min_decimal_places": 1, "max_decimal_places": 1},
}  # fmt: skip


def old(question: str, family: str = "chain_sum") -> Old:
    return Old(question, work_out(question) or "", family)


def every(way, of: Old, olds: list[Old] | None = None, num: int = 40):
    return [way(of, olds or [], random.Random(seed)) for seed in range(num)]


@pytest.mark.parametrize(
    ("question", "pattern"),
    [
        ("5-4+3", r"\d-\d\+\d"),
        ("8+10", r"\d\+(1\d|20)"),
        ("-7+2", r"-[1-9]\+\d"),
        ("2*(14-3)", r"[1-9]\*\((1\d|2[0-8])-[1-9]\)"),
        ("gcd(12,9)", r"gcd\((1\d|2[0-4]),[1-9]\)"),
        ("lcm(4,6)", r"lcm\([1-9],[1-9]\)"),
        ("0.6+2.3", r"\d\.\d\+\d\.\d"),
        ("40/5", r"[1-8]\d/[1-9]"),
    ],
)
def test_other_numbers_are_as_long(question, pattern):
    found = every(numbers, old(question))
    for v in found:
        assert re.fullmatch(pattern, v.question) and v.question != question, v
        assert v.solution == work_out(v.question) and ("." in question or "." not in v.answer)
        assert v.calculations == len(v.solution.splitlines()) - 1
    assert len({v.question for v in found}) > 15


@pytest.mark.parametrize(
    ("question", "pattern"),
    [
        ("5-4+3", r"5-4\+3[-+][1-9]"),
        ("8+10", r"8\+10[-+](1\d|20)"),
        ("3*4", r"3\*4\*[1-9]"),
        ("6/2", r"6/2[-+][1-9]"),
        ("gcd(12,9)", r"gcd\(12,9,[1-9]\)"),
        ("lcm(4,6)", r"lcm\(4,6,[1-9]\)"),
        ("0.6+2.3", r"0\.6\+2\.3[-+][1-9]\.\d"),
        ("2--1", r"2--1[-+][1-9]"),
    ],
)
def test_one_more_term_factor_or_argument(question, pattern):
    found = every(longer, old(question))
    for v in found:
        assert re.fullmatch(pattern, v.question), v
        assert v.solution == work_out(v.question)
    assert len({v.question for v in found}) >= 8


def test_combined_by_hand():
    sums = [old("5-4+3"), old("2*3"), old("9-1")]
    assert {v.question for v in every(combined, sums[0], sums)} == {"5-4+3+2*3", "5-4+3+9-1"}
    (v,) = every(combined, sums[0], [sums[0], sums[2]], 1)
    assert (v.solution, v.answer, v.calculations) == ("5-4=1\n1+3=4\n4+9=13\n13-1=12\n#### 12", "12", 4)
    gcds = [old("gcd(12,9)", "gcd"), old("gcd(6,3)", "gcd"), old("lcm(6,4)", "lcm")]
    assert {v.question for v in every(combined, gcds[0], gcds)} == {"gcd(12,9,6,3)"}
    negative = [old("5-4"), old("-3+1")]
    assert combined(*negative[:1], negative, random.Random(0)).question == "5-4+-3+1"
    with pytest.raises(Dropped, match="no other problem of their family"):
        combined(gcds[2], gcds, random.Random(0))


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        ("5-4+3", {"x-4+3=4,x": "4-3=1\n1+4=5\n#### 5", "5-x+3=4,x": "4-3=1\n5-1=4\n#### 4",
                   "5-4+x=4,x": "5-4=1\n4-1=3\n#### 3"}),
        ("3-9", {"x-9=-6,x": "-6+9=3\n#### 3", "3-x=-6,x": "3--6=9\n#### 9"}),
        ("3*4", {"x*4=12,x": "12/4=3\n#### 3", "3*x=12,x": "12/3=4\n#### 4"}),
        ("0*4", {"x*4=0,x": "0/4=0\n#### 0"}),  # any number times 0 is 0: x is never the 4
        ("12/4", {"x/4=3,x": "3*4=12\n#### 12"}),  # not linear in the divisor
        ("2*(7-4)", {"x*(7-4)=6,x": "7-4=3\n6/3=2\n#### 2", "2*(x-4)=6,x": "6/2=3\n3+4=7\n#### 7",
                     "2*(7-x)=6,x": "6/2=3\n7-3=4\n#### 4"}),
        ("2--1", {"x--1=3,x": "3+-1=2\n#### 2"}),  # the other stands behind its own minus
        ("0.6+2.3", {"x+2.3=2.9,x": "2.9-2.3=0.6\n#### 0.6", "0.6+x=2.9,x": "2.9-0.6=2.3\n#### 2.3"}),
    ],
)  # fmt: skip
def test_turned_by_hand(question, asked):
    found = every(turned, old(question))
    assert {v.question: v.solution for v in found} == asked
    for v in found:
        assert v.calculations == v.solution.count("\n")
        assert all(
            step.right is not False for step in written_steps(v.solution, v.question)
        )  # judge: working
        assert verify("math", v.solution, {"answer": v.answer}).status == "correct"


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("gcd(12,9)", "a value that several numbers give"),
        ("lcm(4,6)", "a value that several numbers give"),
        ("0*0", "an answer that does not hang on the number"),
        ("-(3+-4)", "behind a minus"),
        ("-3--4", "behind a minus"),
    ],
)
def test_what_cannot_be_turned_is_dropped(question, reason):
    with pytest.raises(Dropped, match=reason):
        turned(old(question), [], random.Random(0))


def test_what_the_verifiers_read_otherwise_is_refused():
    assert checked("2*(3+4)", "3+4=7\n2*7=14\n#### 14").answer == "14"
    for text, solution in (
        ("2*(3+4)", "#### 14"),  # the value is right, and the working leaves out what is to be done
        ("2*(3+4)", "3+4=8\n2*8=16\n#### 16"),
        ("5-4", "#### 2"),
    ):
        with pytest.raises(Dropped, match="are read otherwise by the verifiers"):
            checked(text, solution)
    with pytest.raises(Dropped, match="are read otherwise by the verifiers"):
        turned(Old("5-4+3", "#### 5", "sums"), [], random.Random(0))


def test_a_division_that_does_not_come_out_is_dropped():
    with pytest.raises(Dropped, match="do not come out even"):
        combined(Old("1/3", "", "sums"), [Old("5/0", "", "sums")], random.Random(0))
    with pytest.raises(Dropped, match="do not come out even"):
        longer(Old("1/0", "", "sums"), [], random.Random(0))
    with pytest.raises(Dropped, match="have no other numbers that come out even"):
        numbers(Old("6/(10-10)", "#### 0", "sums"), [], Least())


class Least(random.Random):
    """Draws the least there is."""

    def randint(self, a, b):
        return a


def test_undoing_by_hand():
    e = parse_expression("2+3*(10-4)-1")
    assert undone(e, 2, Decimal(19)) == (["19+1=20", "20-2=18", "18/3=6", "6+4=10"], Decimal(10))
    assert undone(e, 4, Decimal(19)) == (["10-4=6", "3*6=18", "2+18=20", "20-19=1"], Decimal(1))


@pytest.mark.parametrize(
    ("value", "low", "bottom", "top"),
    [("7", 0, "0", "9"), ("7", 1, "1", "9"), ("-7", 0, "-9", "-1"), ("14", 0, "10", "28"), ("640", 0, "100", "999"),
     ("0.5", 0, "0.0", "9.9"), ("-3.25", 0, "-9.99", "-1.00"), ("10", 0, "10", "20")],
)  # fmt: skip
def test_numbers_of_the_same_size(value, low, bottom, top):
    rng = random.Random(1)
    drawn = {like(Decimal(value), rng, low) for _ in range(20_000)}
    assert (str(min(drawn)), str(max(drawn))) == (bottom, top)


def source(**keys) -> SourceConfig:
    given = {
        "name": "varied_arithmetic",
        "start": 500,
        "size": 400,
        "of": 60,
        "families": FAMILIES,
        "ways": FOUR,
    }
    return SourceConfig(**given | keys)


def items(**keys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_items(source(**keys))


def test_every_family_has_its_ways_and_each_solution_is_judged_right():
    found = items(size=1200)
    assert len(found) > 800
    ways = {tuple(i.problem.domain.split("/")[:2]) for i in found}
    flat = ("chain_sum", "basic_arithmetic", "products", "decimal_chain_sum")
    assert ways == {(f, w) for f in FAMILIES for w in FOUR if w != "turned" or f in flat}
    for item in found:
        family, way, num = item.problem.domain.split("/")
        prompt, solution = item.problem.prompt, item.solution
        assert int(num) == solution.count("\n") and item.problem.source.startswith(
            f"reasoning-gym {family}, "
        )
        assert verify("math", solution, item.problem.reference).status == "correct"
        if way == "turned":
            assert all(s.right is not False for s in check_steps(solution, prompt)), (prompt, solution)
            back = prompt.partition(",")[0].replace("x", f"({item.problem.reference['answer']})")
            assert check_steps(back)[0].right
        else:
            assert all(s.right for s in check_working(solution, prompt)), (prompt, solution)
    olds = {o.question for o in old_expressions(source())}
    assert len(olds) > 50 and olds.isdisjoint(i.problem.prompt for i in found)


def test_the_old_problems_are_those_of_arithmetic():
    given = load_items(SourceConfig(name="arithmetic", start=500, size=60, families=FAMILIES))
    assert [o.question for o in old_expressions(source())] == [i.problem.prompt for i in given]


def test_a_place_has_its_problem_and_starts_that_are_apart_never_meet():
    whole, part = items(), items(size=150)
    assert [i.problem.id for i in whole[: len(part)]] == [i.problem.id for i in part] and whole[
        : len(part)
    ] == part
    far = items(start=90_000)
    assert {i.problem.id for i in far}.isdisjoint(i.problem.id for i in whole)
    # the i-th new problem is made from old problem i modulo their number
    olds = [o.question for o in old_expressions(source())]
    longest = [i for i in whole if i.problem.domain.startswith("chain_sum/longer")]
    assert len(longest) > 10
    for item in longest:
        number = int(item.problem.id.removeprefix("varied_arithmetic/")) - 500
        assert item.problem.prompt.startswith(olds[number % len(olds)])


def test_what_is_dropped_is_told_once():
    with pytest.warns(UserWarning) as told:
        load_items(source(ways={"turned": 1}, families={"gcd": {}, "chain_sum": {}}, of=10, size=20))
    assert [str(w.message) for w in told] == [
        "of 20 problems made from old ones 10 are dropped: 10 have a value that several numbers give"
    ]


def test_a_share_shows_its_working():
    found = items(worked=0.5)
    shown = sum("\n" in i.solution for i in found) / len(found)
    assert 0.35 < shown < 0.65
    assert [i.problem for i in found] == [i.problem for i in items()]
    assert old_expressions(source(worked=0.0)) == old_expressions(source())


def test_how_many_old_problems_there_are_has_to_be_said():
    with pytest.raises(UserError, match="varied_arithmetic has no `of`; expected how many old problems"):
        load_items(source(of=None))


def test_tokenizers_made_here_spell_the_unknown():
    tokenizer = train_tokenizer(["5-4+3=\n5-4=1\n1+3=4\n#### 4"] * 9, 320)
    assert tokenizer.decode(tokenizer("5-x+3=4,x=\n").input_ids) == "5-x+3=4,x=\n"
