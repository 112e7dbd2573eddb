"""New problems out of a model's text: which question is taken, why others are dropped, and on what votes agree."""

import json
from dataclasses import asdict

import pytest

from reasoner.signals.invented import (
    OUTVOTED,
    UNASKED,
    Try,
    counted,
    once_each,
    question_of,
    voted,
    writing_prompt,
)
from reasoner.tree import Problem

BALLS = "Ann has 3 red and 4 blue balls. How many balls has she?"
COINS = "Bob finds 5 coins and then 6 more coins. How many are these?"


def posed(prompt: str, **reference) -> Problem:
    return Problem("p", prompt, "math", reference)


def test_old_problems_stand_literally_in_the_prompt():
    shown = [posed("What is {x} + {examples}?"), posed("And 2?")]
    assert writing_prompt("Old:\n{examples}\nProblem:", shown) == (
        "Old:\nProblem: What is {x} + {examples}?\n\nProblem: And 2?\nProblem:"
    )


@pytest.mark.parametrize(
    "text",
    [
        f" {BALLS}",
        f"{BALLS} #### 7\n\nProblem: {COINS}",
        f"Sure! Here is a problem.\n\n**Problem:** {BALLS}\nAnswer: 7",
        f"Problem 12. {BALLS}",
        f"Q: {BALLS}",
        f"\nquestion 3) “{BALLS}”",
        "Ann has 3 red\n  and 4 blue balls.\tHow many\nballs has she?",
    ],
)
def test_the_first_question_is_taken_without_what_is_around_it(text):
    assert question_of(text, False) == (BALLS, "")
    assert question_of(text, True) == (BALLS, "")  # what is cut behind it is no part of it


def test_a_label_inside_a_sentence_is_a_word():
    told = "Ann has a big problem: 3 of her 7 balls are gone. How many has she?"
    assert question_of(told, False) == (told, "")


@pytest.mark.parametrize(
    ("text", "is_cut", "reason"),
    [
        ("", False, "empty"),
        (" \n\t", True, "empty"),
        ("Ann has 3 red and 4 blue balls and", True, "cut"),
        ("Ann has 3 red and 4 blue balls.", False, "no_question"),
        ("How many balls are there now?", False, "short"),  # seven words and signs
        ("How many red balls are there now?", False, ""),  # eight
        ("?", False, "short"),
        (f"<|end|>{BALLS}", False, "markup"),
        (f"{BALLS}<|end|>", False, ""),
    ],
)
def test_what_is_no_question(text, is_cut, reason):
    assert question_of(text, is_cut, ["<|end|>"])[1] == reason


@pytest.mark.parametrize(
    ("answers", "agreement", "share", "dropped", "answer"),
    [
        (["7", "7.0", "8", "7"], 0.75, 0.75, "", "7"),
        (["7", "8", "9", "7"], 0.75, 0.5, "disagreed", None),
        (["7", "8", "9", "7"], 0.5, 0.5, "", "7"),
        (["7", "8", "8", "7"], 0.5, 0.5, "disagreed", None),  # as many for another
        (["7", None, None, "7"], 0.75, 0.5, "disagreed", None),  # no answer is no vote for one
        (["8", "1/2", "0.5", "1/2"], 0.7, 0.75, "", "1/2"),
        (["8", "0.5", "1/2", "1/2"], 0.7, 0.75, "", "0.5"),
        (["7", "$7", "7 balls", "7."], 0.75, 1.0, "", "7"),
        (["-7", "-7.", "-7", "7"], 0.75, 0.75, "", "-7"),
        (["1,200", "1200", "1200", "1200"], 1, 1.0, "", "1200"),
        ([None] * 4, 0.1, 0.0, "no_answer", None),
        (["red", "red", "red", "red"], 0.5, 1.0, "not_plain", None),
        (["3 + 4"] * 4, 0.5, 1.0, "not_plain", None),
        (["__import__('os').getpid()"] * 4, 0.5, 1.0, "not_plain", None),
        (["7" + r"\," * 3000] * 4, 0.5, 1.0, "not_plain", None),  # a number, and too long to be read
    ],
)
def test_votes(answers, agreement, share, dropped, answer):
    one = Try(3, BALLS, reference={"extract": "boxed"})
    found = voted(one, posed(BALLS), answers, agreement)
    assert (found.share, found.dropped, found.reference.get("answer")) == (share, dropped, answer)
    assert found.reference["extract"] == "boxed" and found.answers == tuple(answers)
    assert found.question == BALLS and found.number == 3


def test_a_question_counts_once_whatever_came_of_its_answers():
    loud = BALLS.upper().replace(" ", "  ")
    tries = [
        Try(0, BALLS, "old"),
        Try(1, BALLS, "disagreed"),
        Try(2, loud),
        Try(3, COINS),
        Try(4, COINS, "long"),
        Try(5, COINS),
    ]
    once = once_each(tries)
    assert [t.dropped for t in once] == ["old", "disagreed", "repeated", "", "long", "repeated"]
    assert once_each(once) == once and [t.number for t in once] == [0, 1, 2, 3, 4, 5]


def test_every_reason_is_counted():
    tries = [
        Try(n, dropped=reason)
        for n, reason in enumerate(["", "", "cut", "disagreed", "disagreed", "disagreed"])
    ]
    counts = counted(tries)
    assert set(counts) == {"tries", "kept", *(f"dropped_{r}" for r in (*UNASKED, *OUTVOTED))}
    assert {k: n for k, n in counts.items() if n} == {
        "tries": 6, "kept": 2, "dropped_cut": 1, "dropped_disagreed": 3,
    }  # fmt: skip


def test_hostile_text_stays_text():
    """What a model writes goes through JSON as it is, and through no template and no format."""
    text = 'Ann says {0} {prompt} %s "}]} </script> \ud800 \x00 $(id) and how many balls has she?'
    question, dropped = question_of(text, False)
    assert not dropped and question == text
    one = voted(Try(0, question), posed(question), ["{0.__class__}", "7", "7", "7"], 0.5)
    assert Try(**json.loads(json.dumps(asdict(one)))) == Try(**{**asdict(one), "answers": list(one.answers)})


def test_answers_that_were_drawn_for_a_repeated_question_are_let_go():
    first = voted(Try(0, BALLS, reference={"places": 2}), posed(BALLS), ["7", "7"], 0.5)
    again = voted(Try(1, BALLS, reference={"places": 2}), posed(BALLS), ["8", "8"], 0.5)
    assert once_each([first, again]) == [first, Try(1, BALLS, "repeated", {"places": 2})]
