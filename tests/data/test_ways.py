"""Word problems by one more step, by combination and turned round: what is written, what is dropped, and what is drawn when."""

import gzip
import json
import random
import re
import warnings
from fractions import Fraction

import pytest

from reasoner.config import ConfigError, check_entries, validate
from reasoner.data.demonstrator import parse_expression
from reasoner.data.formula import CALCULATION, Formula
from reasoner.data.rows import SourceConfig
from reasoner.data.sources import load_items
from reasoner.data.varied import WAYS
from reasoner.data.ways import Dropped, Old
from reasoner.data.words_combined import combined, with_letter
from reasoner.data.words_longer import kind_of, longer
from reasoner.data.words_turned import Linear, forms_of, gives_alone, linear, text_of, turned
from reasoner.registry import UserError
from verifiers import verify
from verifiers.arithmetic_steps import check_steps

APPLES = Old(
    "Ann has 30 apples and buys 17 more. She sells each for $4. How much does she get?",
    "Ann has 30+17 = <<30+17=47>>47 apples.\nShe gets 47*4 = $<<47*4=188>>188.\n#### 188",
    "varied",
)
BOOKS = Old(
    "Ben has a 150-page book and reads 25 pages of it. How many pages are left?",
    "There are 150-25 = <<150-25=125>>125 pages left.\n#### 125",
    "varied",
)
CLIPS = Old(
    "Natalia sold 48 clips in April, and half as many in May. How many clips did she sell?",
    "48/2 = <<48/2=24>>24 in May.\n48+24 = <<48+24=72>>72 clips.\n#### 72",
    "varied",
)
FOUR = {"numbers": 1, "longer": 1, "combined": 1, "turned": 1}
OPERATIONS = {
    "+": lambda a, k: a + k,
    "-": lambda a, k: a - k,
    "*": lambda a, k: a * k,
    "/": lambda a, k: a / k,
}


def every(way, old: Old, olds: list[Old], num: int = 60):
    return [way(old, olds, random.Random(seed)) for seed in range(num)]


def test_one_more_step_asks_on_and_works_on():
    found = every(longer, CLIPS, [])
    seen = set()
    for v in found:
        asked = v.question.removeprefix(CLIPS.question).strip()
        assert v.question.startswith(CLIPS.question) and asked.endswith("?") and "clips" in asked
        a, sign, k, r = re.fullmatch(
            r"(\d+)([-+*/])(\d+)=(\d+)", "=".join(CALCULATION.findall(v.solution)[-1])
        ).groups()
        assert int(a) == 72 and OPERATIONS[sign](72, int(k)) == int(r) == int(v.answer) and k in asked
        assert v.solution.startswith(CLIPS.solution.removesuffix("#### 72")) and v.solution.endswith(
            f"\n#### {r}"
        )
        assert v.calculations == 3
        seen.add((sign, re.sub(r"\d+", "", asked)))
    assert {sign for sign, _ in seen} == set("+-*/") and len(seen) == 8  # two wordings of each


@pytest.mark.parametrize(
    ("question", "last", "kind"),
    [
        ("How many boys were there?", "3+4 = <<3+4=7>>7", ("things", "boys")),
        ("He has 3. How many people are there?", "<<3+4=7>>7", ("things", "people")),
        ("How many more boys are there?", "<<3+4=7>>7", ("number", "")),
        ("How many hours did he work?", "<<3+4=7>>7", ("number", "")),
        ("How much did she pay?", "3+4 = $<<3+4=7>>7", ("money", "dollars")),
        ("How much did she pay? He pays $4.", "3+4 = $<<3+4=7>>7", ("number", "")),
        ("How much is left?", "3+4 = <<3+4=7>>7 liters", ("number", "")),
        ("How much water is left?", "<<3+4=7>>7 liters", ("number", "")),
        ("It earns 4 million. How much is left?", "3+4 = $<<3+4=7>>7 million", ("number", "")),
        ("Of 3 million, how many birds are left?", "3+4 = <<3+4=7>>7 million", ("number", "")),
        ("How old is Tom?", "<<3+4=7>>7", ("number", "")),
    ],
)  # fmt: skip
def test_what_is_counted(question, last, kind):
    assert kind_of(Old(question, f"{last}\n#### 7", "varied")) == kind


def test_a_step_on_a_broken_amount_of_money_multiplies():
    old = Old("Tea is $5 for 2. How much does 1 cost?", "5/2 = $<<5/2=2.5>>2.5\n#### 2.5", "varied")
    for v in every(longer, old, [], 20):
        k = int(re.findall(r"2\.5\*(\d+)=", v.solution)[0])
        assert Fraction(v.answer) == Fraction(5, 2) * k and f"{k} times" in v.question


def test_combined_by_hand():
    for v in every(combined, BOOKS, [CLIPS, BOOKS], 10):
        # 72 for 150: it is near enough in size; for 25 as well
        call = next(c for c in ("Call the answer to this N.", "Let N be the answer to this question.",
                                "Write N for the number that answers this.") if c in v.question)  # fmt: skip
        first, second = v.question.split(f" {call} ")
        assert first == CLIPS.question
        if "N-page" in second:
            assert second == "Ben has an N-page book and reads 25 pages of it. How many pages are left?"
            last = "There are 72-25 = <<72-25=47>>47 pages left.\n#### 47"
        else:
            assert second == "Ben has a 150-page book and reads N pages of it. How many pages are left?"
            last = "There are 150-72 = <<150-72=78>>78 pages left.\n#### 78"
        assert v.solution == f"{CLIPS.solution.removesuffix('#### 72')}So N is 72.\n{last}"
        assert v.answer == last[-2:] and v.calculations == 3
    assert {"N-page" in v.question for v in every(combined, BOOKS, [CLIPS, BOOKS], 20)} == {True, False}


def answering(value: int) -> Old:
    return Old(f"What is 1 and {value - 1}?", f"<<1+{value - 1}={value}>>{value}\n#### {value}", "varied")


@pytest.mark.parametrize(
    ("value", "why"),
    [(25, "the other number"), (125, "the old result"), (5, "too small"), (900, "too large")],
)
def test_a_combination_that_would_repeat_a_number_or_change_its_size_is_dropped(value, why):
    with pytest.raises(Dropped, match="no number that the answer of another problem fits"):
        combined(BOOKS, [answering(value), BOOKS], random.Random(0))
    assert combined(BOOKS, [answering(60), BOOKS], random.Random(0)).answer in ("35", "90")


def test_a_combination_whose_result_would_be_negative_is_dropped():
    old = BOOKS._replace(question=BOOKS.question.replace("150", "40"), solution="<<40-25=15>>15\n#### 15")
    for seed in range(20):  # 30 for 25 leaves 10, and 70 for it would leave less than nothing
        v = combined(old, [answering(30), old], random.Random(seed))
        assert v.answer in ("10", "5")
        assert combined(old, [answering(70), old], random.Random(seed)).answer == "45"


def test_a_letter_that_is_in_use_is_not_taken():
    named = CLIPS._replace(question=CLIPS.question.replace("Natalia", "Mr. N"))
    assert "Let M be" in next(v.question for v in every(combined, BOOKS, [named], 30) if "Let" in v.question)
    assert (
        with_letter("A 30-page book, 30% of 30 pages.", Fraction(30), "N")
        == "An N-page book, 30% of N pages."
    )


def test_turned_by_hand():
    asked = set()
    for v in every(turned, CLIPS, []):
        start = "Natalia sold x clips in April, and half as many in May. How many clips did she sell? "
        assert v.question.startswith(start)
        asked.add(v.question.removeprefix(start))
        assert v.solution == (
            "x/2 = 0.5*x in May.\nx+0.5*x = 1.5*x clips.\nSo 1.5*x = 72.\nThis gives x = 72/1.5 = <<72/1.5=48>>48.\n#### 48"
        )
        assert (v.answer, v.calculations) == ("48", 3)
    assert asked == {
        "The answer to this question is 72. What is x?",
        "If the answer to this question is 72, what number is x?",
        "It is known that the answer is 72. Find x.",
    }


def test_turned_keeps_what_does_not_hang_on_the_unknown():
    found = {v.answer: v.solution for v in every(turned, APPLES, [])}
    assert found["17"] == (
        "Ann has 30+x = (x + 30) apples.\nShe gets (x + 30)*4 = $(4*x + 120).\nSo 4*x + 120 = 188.\n"
        "Then 4*x = 188-120 = <<188-120=68>>68.\nThis gives x = 68/4 = <<68/4=17>>17.\n#### 17"
    )
    assert found["4"] == (
        "Ann has 30+17 = <<30+17=47>>47 apples.\nShe gets 47*x = $47*x.\nSo 47*x = 188.\n"
        "This gives x = 188/47 = <<188/47=4>>4.\n#### 4"
    )
    assert set(found) == {"30", "17", "4"}


def test_turned_with_a_minus_and_with_thirds():
    old = Old("Of 40 nuts 25 are bad. How many are good?", "40-25 = <<40-25=15>>15\n#### 15", "varied")
    found = {v.answer: v.solution for v in every(turned, old, [])}
    assert found["25"] == "40-x = (40 - x)\nSo 40 - x = 15.\nThen x = 40-15 = <<40-15=25>>25.\n#### 25"
    thirds = Old("Of 57 nuts a third is bad. How many are bad?", "57/3 = <<57/3=19>>19\n#### 19", "varied")
    assert turned(thirds, [], random.Random(0)).solution == (
        "x/3 = x/3\nSo x/3 = 19.\nThis gives x = 19*3 = <<19*3=57>>57.\n#### 57"
    )


@pytest.mark.parametrize(
    ("question", "working", "reason"),
    [
        ("15 goats eat 60 bales.", "60/15 = <<60/15=4>>4\n#### 4", None),  # 60 is asked for, and never 15
        ("A square of 13 m.", "13*13 = <<13*13=169>>169\n#### 169", "not linear in the number"),
        ("120 are shared by 15.", "<<15-15=0>>0\n<<0*120=0>>0\n#### 0", "value of another number"),
        ("Of 19 he eats as many.", "19-19+30 = <<19-19+30=30>>30\n#### 30", "from nowhere"),
        (
            "Of 19 he eats as many; 30 come.",
            "19-19+30*2 = <<19-19+30*2=60>>60\n#### 60",
            None,
        ),  # 30, and never 19
        ("Ann has 30, Ben 17.", "30+17 is 47\n#### 47", "no calculation in marks"),
        ("Ann has 30, Ben 17, in all 47.", "<<30+17=47>>47\n#### 47", "value of another number"),
        ("Ann has 30, Ben 17.", "47 are <<30+17=47>>47\n#### 47", "value of another number"),
        ("Ann has 30, Ben 17.", "<<30/0=47>>47\n#### 47", "not exact"),
    ],
)
def test_what_has_not_one_solution_is_dropped(question, working, reason):
    if reason:
        with pytest.raises(Dropped, match=reason):
            turned(Old(question, working, "varied"), [], random.Random(0))
    else:
        asked = {turned(Old(question, working, "varied"), [], random.Random(s)).answer for s in range(20)}
        assert asked == ({"60"} if "goats" in question else {"30"})


def test_linear_forms_by_hand():
    x = {Fraction(7): Linear(Fraction(0), Fraction(1))}
    assert linear(parse_expression("3*(7-2)/4-(7)"), x) == Linear(Fraction(-3, 2), Fraction(-1, 4))
    assert linear(parse_expression("7-7"), x) == Linear(Fraction(0), Fraction(0))
    for nonlinear in ("7*7", "14/7", "2/(7-7)", "gcd(7,2)", "7/0"):
        with pytest.raises(Dropped, match="linear"):
            linear(parse_expression(nonlinear), x)
    shown = {(0, 1): "x", (0, -1): "(-x)", ("3/2", 2): "(2*x + 1.5)", (24, "-1/2"): "(24 - 0.5*x)",
             (-5, "2/3"): "(2*x/3 - 5)", (-5, -1): "(-5 - x)"}  # fmt: skip
    assert {key: text_of(Linear(*map(Fraction, key)), "x") for key in shown} == shown
    with pytest.raises(Dropped):
        text_of(Linear(Fraction(1, 3), Fraction(1)), "x")


def test_an_answer_that_hangs_on_no_number_has_a_flat_form():
    formula = Formula("Ann has 19, gives them away, gets 30.", "19-19+30*2 = <<19-19+30*2=60>>60\n#### 60")
    assert forms_of(formula, Fraction(19))[Fraction(60)] == Linear(Fraction(60), Fraction(0))
    assert not gives_alone(formula, Fraction(19), Fraction(60))  # 18 and 20 do as well
    assert gives_alone(formula, Fraction(30), Fraction(60)) and not gives_alone(
        formula, Fraction(30), Fraction(61)
    )


def rows_file(tmp_path, olds):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"question": o.question, "answer": o.solution}) for o in olds))
    return str(path)


def test_a_place_has_its_problem_whatever_is_read_with_it(tmp_path):
    path = rows_file(tmp_path, [APPLES, BOOKS, CLIPS])

    def items(start: int, size: int):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some are dropped, and some come twice
            return load_items(SourceConfig(name="varied", path=path, start=start, size=size, ways=FOUR))

    whole = {i.problem.id: i for i in items(0, 60)}
    assert {i.problem.domain.split("/")[1] for i in whole.values()} == set(FOUR)
    part = items(30, 30)
    assert len(part) > 10
    for item in part:
        known = whole.get(item.problem.id)  # not there where an earlier one of the whole has its text
        assert known == item or item.problem.prompt in {i.problem.prompt for i in whole.values()}
    assert sum(whole.get(i.problem.id) == i for i in part) > 10
    for item in whole.values():
        assert verify("math", item.solution, item.problem.reference).status == "correct"
        assert all(step.right is not False for step in check_steps(item.solution))


def test_weights_choose_the_ways_and_a_domain_of_ones_own_stays(tmp_path):
    path = rows_file(tmp_path, [APPLES, BOOKS, CLIPS])
    config = SourceConfig(name="varied", path=path, size=40, ways={"longer": 3, "turned": 0}, domain="mine")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some come twice
        found = load_items(config)
    assert {(i.problem.domain, i.problem.source) for i in found} == {("mine", "openai/gsm8k, one more step")}
    assert len(found) > 30


def test_a_problem_that_is_an_old_one_again_is_dropped(tmp_path):
    (again,) = {v.question for v in every(turned, CLIPS, []) if v.question.endswith("What is x?")}
    path = rows_file(tmp_path, [CLIPS, Old(again, "#### 48", "varied")])
    with pytest.warns(UserWarning, match="are an old problem again") as told:
        found = load_items(SourceConfig(name="varied", path=path, size=60, ways={"turned": 1}))
    assert again not in {i.problem.prompt for i in found}
    assert any("repeat the prompt" in str(w.message) for w in told)  # there are but two others


def test_ways_that_cannot_be(tmp_path):
    path = rows_file(tmp_path, [APPLES])
    unknown = validate(SourceConfig, {"name": "varied", "path": path, "ways": {"longr": 1}}, "run.yaml")
    with pytest.raises(UserError, match="ways: got way to make problems 'longr', did you mean longer"):
        check_entries(unknown)
    with pytest.raises(UserError, match="got way to make problems 'longr', did you mean longer"):
        load_items(unknown)
    for raw, told in (
        ({"name": "varied", "ways": {"longer": 0}}, r"ways=\{'longer': 0.0\}, which gives weight to none"),
        ({"name": "gsm8k", "ways": {"longer": 1}}, "gsm8k takes no ways; expected it beside varied or varied_arith"),
        ({"name": "varied", "of": 5}, "varied takes no of; expected it beside varied_arithmetic"),
        ({"name": "varied", "ways": {"longer": -1}}, "greater than or equal to 0"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=told):
            validate(SourceConfig, raw, "run.yaml")


def useless(old: Old, olds, rng):
    raise Dropped("are of no use")


def test_a_way_of_ones_own(tmp_path):
    config = SourceConfig(
        name="varied", path=rows_file(tmp_path, [CLIPS]), size=6, ways={f"{__name__}:useless": 1}
    )
    with (
        pytest.warns(UserWarning, match="6 are dropped: 6 are of no use"),
        pytest.raises(UserError, match="is empty"),
    ):
        load_items(config)


@pytest.mark.parametrize("name", WAYS)
def test_real_problems_by_each_way(shared_data, name):
    with gzip.open(shared_data / "gsm8k/train.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(150), strict=False)]
    olds = [Old(r["question"], r["answer"], "varied") for r in rows]
    kept = 0
    for old in olds:
        try:
            v = WAYS[name](old, olds, random.Random(0))
        except Dropped:
            continue
        kept += 1
        lines = [f"{a}={b}" for a, b in CALCULATION.findall(v.solution)]
        assert all(step.right for step in check_steps("\n".join(lines))), v
        assert verify("math", CALCULATION.sub("", v.solution), {"answer": v.answer}).status == "correct"
    assert kept > (100 if name == "longer" else 25)
