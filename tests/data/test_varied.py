"""Word problems with other numbers: what changes, what stays, and what is dropped and counted."""

import gzip
import json
import random
import re
import warnings
from fractions import Fraction

import pytest

from reasoner.data.formula import agreed
from reasoner.data.rows import SourceConfig
from reasoner.data.sources import load_items
from reasoner.data.varied import numbers
from reasoner.data.ways import Dropped, Old, Variant
from verifiers import verify

APPLES = (
    "Ann has 30 apples and buys 17 more. She sells each for $4.",
    "Ann has 30+17 = <<30+17=47>>47 apples.\nShe gets 47*4 = $<<47*4=188>>188.\n#### 188",
)


def variant(question: str, solution: str, rng: random.Random) -> Variant:
    return numbers(Old(question, solution, "varied"), [], rng)


def made(question: str, solution: str, num: int = 40) -> list[Variant]:
    return [variant(question, solution, random.Random(seed)) for seed in range(num)]


def test_numbers_change_together_in_question_working_and_answer():
    found = made(*APPLES)
    for v in found:
        a, b, c = map(int, re.findall(r"\d+", v.question))
        assert v.question == f"Ann has {a} apples and buys {b} more. She sells each for ${c}."
        assert v.solution == (
            f"Ann has {a}+{b} = <<{a}+{b}={a + b}>>{a + b} apples.\n"
            f"She gets {a + b}*{c} = $<<{a + b}*{c}={(a + b) * c}>>{(a + b) * c}.\n#### {(a + b) * c}"
        )
        assert v.answer == str((a + b) * c) and a != 30 and b != 17 and c != 4
        assert a % 10 == 0  # round numbers stay round
    assert len({v.question for v in found}) > 30


def test_what_words_stand_for_stays():
    question = "Ben reads 48 pages in a week, and twice as many in the next week. How many a day?"
    working = "He reads 48*2 = <<48*2=96>>96 pages, half of it by 96/4 = <<96/4=24>>24.\n#### 24"
    for v in made(question, working):
        pages = int(re.findall(r"\d+", v.question)[0])
        assert f"{pages}*2 = <<{pages}*2={2 * pages}>>" in v.solution and v.question.count("twice") == 1


def test_whole_results_stay_whole_and_positive():
    question, working = (
        "Of 90 nuts, 18 are bad. 24 monkeys share the rest.",
        "90-18 = <<90-18=72>>72\n72/24 = <<72/24=3>>3\n#### 3",
    )
    for v in made(question, working, 20):
        nuts, bad, monkeys = map(int, re.findall(r"\d+", v.question))
        assert (nuts - bad) % monkeys == 0 and nuts > bad and v.answer == str((nuts - bad) // monkeys)


@pytest.mark.parametrize(
    ("question", "working", "reason"),
    [
        ("Ann has 30 apples, Ben 30.", "30+30 = <<30+30=60>>60\n#### 60", "no number whose part is plain"),
        ("Ann has 30 apples.", "#### 30", "no calculation in marks"),
        ("Ann has 30, Ben 17.", "<<30+17=47>>47\n#### 48", "another answer"),
        ("Ann has 30, Ben 17.", "<<30+17=48>>48\n#### 48", "not exact"),
        ("Ann has 30, Ben 17.", "<<30+x=47>>47\n#### 47", "cannot be read"),
        ("Ann has 30, Ben 17.", "<<30+17=47>>47\n<<47+23=70>>70\n#### 70", "a number from nowhere"),
        # 2 is a result, and what "half" stands for
        ("Half of 34 is cut in 17.", "<<34/17=2>>2\n<<2*17=34>>34\n#### 34", "value of another number"),
        ("He saves $14, then $28, and goes on in this way.", "28*2 = <<28*2=56>>56\n#### 56", None),
        (
            "He saves $14, then $28, and follows this saving pattern.",
            "28*2 = <<28*2=56>>56\n#### 56",
            "by a pattern",
        ),
        ("Ann is 2000 years old.", "<<2000*2=4000>>4000\n#### 4000", "no number whose part is plain"),
    ],
)
def test_what_is_not_plain_is_dropped(question, working, reason):
    if reason is None:
        assert variant(question, working, random.Random(0)).question != question
        return
    with pytest.raises(Dropped, match=reason):
        variant(question, working, random.Random(0))


def test_percentages_fractions_and_numbers_in_words_are_no_free_numbers():
    question = "A shirt of $80 is 25% off, on the 3rd of May; 1/4 is paid. Seven are sold for 80.50."
    working = "25/100*80 = <<25/100*80=20>>20\n80-20 = <<80-20=60>>60\n#### 60"
    for v in made(question, working, 10):
        price = int(re.findall(r"\$(\d+)", v.question)[0])
        assert v.question == question.replace("$80", f"${price}") and price != 80


def test_a_text_whose_calculations_are_read_otherwise_is_refused():
    _, working = APPLES
    assert agreed(working, Fraction(188))
    assert not agreed(working.replace("30+17=47", "30+17=46"), Fraction(188))
    assert not agreed(working, Fraction(187))


def test_a_source_makes_as_many_as_are_asked_for_and_tells_what_it_dropped(tmp_path):
    rows = [
        dict(zip(("question", "answer"), APPLES, strict=True)),
        {"question": "Ann has 30?", "answer": "#### 30"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def items(start: int, size: int):
        return load_items(
            SourceConfig(name="varied", path=str(tmp_path / "rows.jsonl"), start=start, size=size)
        )

    with pytest.warns(
        UserWarning, match="of 10 problems made from old ones 5 are dropped: 5 have no calculation in marks"
    ):
        found = items(0, 10)
    assert [i.problem.id for i in found] == [f"varied/{n}" for n in (0, 2, 4, 6, 8)]
    # a row's first problem has the seed 0, its next one 1, wherever the row stands
    seeds = [random.Random(f"{n} {APPLES[0]}") for n in range(5)]
    assert [i.problem.prompt for i in found] == [variant(*APPLES, seed).question for seed in seeds]
    for item in found:
        assert (item.problem.domain, item.problem.source) == (
            "varied/numbers/2",
            "openai/gsm8k, other numbers",
        )
        assert "<<" not in item.solution
        assert verify("math", item.solution, item.problem.reference).status == "correct"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again, later = items(4, 6), items(10, 10)
    assert [i.problem.prompt for i in again] == [i.problem.prompt for i in found[2:]]  # by place alone
    assert {i.problem.prompt for i in later}.isdisjoint(i.problem.prompt for i in found)


def test_real_problems(shared_data):
    with gzip.open(shared_data / "gsm8k/train.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(150), strict=False)]
    kept = 0
    for row in rows:
        try:
            v = variant(row["question"], row["answer"], random.Random(0))
        except Dropped:
            continue
        kept += 1
        assert v.question != row["question"]
        # the words are the same
        assert re.sub(r"[\d,.]+", "", v.question) == re.sub(r"[\d,.]+", "", row["question"])
    assert 25 < kept < 100
