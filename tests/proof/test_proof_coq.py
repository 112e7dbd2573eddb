"""Coq, for real: generated theorems with right and wrong proofs, steps, goals, limits, bad references, lost workers."""

import os
import signal
import time

import pytest

from reasoner.data.theorems import FAMILIES, HEADER, theorem
from verifiers import verify, verify_many
from verifiers.proof import Task, coq, coq_text, programs, report

pytestmark = pytest.mark.usefixtures("coq_here")
SIMPLE = {
    "system": "coq",
    "statement": "forall n : nat, n + 0 = n",
    "header": "From Coq Require Import Lia.",
    "name": "t",
}


@pytest.fixture(scope="module", autouse=True)
def sessions():
    yield
    programs.close()


def judged_without_a_fault(count: int) -> None:
    """`count` theorems, a third of each family: the proof is right, without its last step it is not, and it proves no false
    neighbour."""
    asked = []
    for i in range(count):
        family, difficulty = sorted(FAMILIES)[i % 3], 1 + i // 3 % 5
        made = theorem(family, i, difficulty)
        shorter = made.proof.rpartition("\n")[0] or "idtac."
        for kind, statement, text in (("right", made.statement, made.proof), ("shorter", made.statement, shorter),
                                      ("false", made.false_statement, made.proof)):  # fmt: skip
            asked.append(
                (
                    (kind, family, difficulty, i),
                    "proof",
                    text,
                    {"system": "coq", "statement": statement, "header": HEADER},
                )
            )
    found = dict(verify_many(asked))
    assert len(found) == 3 * count
    faults = [k for k, v in found.items() if v.status != ("correct" if k[0] == "right" else "incorrect")]
    assert faults == []


def test_generated_theorems_are_judged_without_a_fault():
    judged_without_a_fault(45)


@pytest.mark.slow
def test_five_hundred_generated_theorems_are_judged_without_a_fault():
    judged_without_a_fault(500)


BY_INDUCTION = "induction n as [|n IH].\n- reflexivity.\n- simpl. rewrite IH. reflexivity."


@pytest.mark.parametrize(
    "response",
    [
        "lia.",
        "intros n.\nlia.",
        f"Proof.\nintros n.\n{BY_INDUCTION}\nQed.",
        f"intros n. {BY_INDUCTION}",
        "<think>lia does it</think>\nSo:\n```coq\nProof. intros; lia. Qed.\n```\nDone.",
        "Theorem t : forall n : nat, n + 0 = n.\nProof. intros n. lia. Qed.",
        "Theorem t (n : nat) : n + 0 = n.\nProof. lia. Qed.",
        "Require Import List.\nLemma h (n : nat) : 0 + n = n + 0.\nProof. lia. Qed.\n"
        "Theorem t : forall n, n + 0 = n.\nProof. intros n. rewrite <- h. reflexivity. Qed.",
        "Theorem t : forall m : nat, 0 + (m + 0) = m.\nProof. intros; lia. Qed.",  # convertible: the same type
        "intros n. { lia. }",
        "1: lia.",
        'intros n. (* a comment. with (* another *) and a "string *) " *) lia.',
        "intros; lia.\r\nQed.\r\n",
    ],
)
def test_a_proof_may_be_a_body_a_block_or_a_file(response):
    found = verify("proof", response, SIMPLE)
    assert (found.status, found.reason, found.score) == ("correct", "ok", 1.0), found.detail
    assert found.isolation in ("A", "B", "B-landlock")


def test_statements_with_binders_are_the_same_theorem():
    whole = {**SIMPLE, "statement": "Theorem t (n : nat) (h : n > 0) : n + 0 = n /\\ n <> 0."}
    assert verify("proof", "lia.", whole).status == "correct"
    assert (
        verify(
            "proof", "Theorem t : forall n : nat, n > 0 -> n + 0 = n /\\ n <> 0. Proof. lia. Qed.", whole
        ).status
        == "correct"
    )
    assert (
        verify("proof", "Theorem t : forall n : nat, n + 0 = n. Proof. lia. Qed.", whole).status
        == "incorrect"
    )


def test_the_step_that_fails_its_line_the_goals_and_the_words():
    found = report(
        "intros n.\ninduction n as [|n IH].\n- reflexivity.\n- simpl.\n  rewrite foo.\n  reflexivity.",
        Task(**SIMPLE),
    )
    assert (found.status, found.reason, found.failed_line) == ("incorrect", "wrong", 5)
    assert [s.right for s in found.steps] == [True] * 6 + [False, None]
    assert found.goals == ("n : nat, IH : n + 0 = n |- S (n + 0) = S n",)
    assert (
        found.errors == ("The variable foo was not found in the current environment.",)
        or "foo" in found.errors[0]
    )
    unfinished = report("intros n.\ninduction n as [|n IH].\n- reflexivity.", Task(**SIMPLE))
    assert unfinished.failed_line is None and "not complete" in unfinished.detail


def test_axioms_count_where_they_are_allowed_only():
    classical = {
        "system": "coq",
        "statement": "forall P : Prop, P \\/ ~ P",
        "header": "From Coq Require Import Classical.",
    }
    found = report("exact classic.", Task(**classical))
    assert (found.status, found.detail, found.axioms) == ("incorrect", "it rests on classic", ("classic",))
    assert report("exact classic.", Task(**classical, axioms=("classic",))).status == "correct"
    assert (
        report("intros n. reflexivity.", Task("coq", "forall n : nat, n = n", classical["header"])).axioms
        == ()
    )


@pytest.mark.slow
def test_what_is_called_free_of_axioms_is_so_by_coqchk(tmp_path):
    import shutil
    import subprocess

    modules = " ".join(sorted(coq_text.AXIOM_FREE))
    (tmp_path / "all.v").write_text(f"From Coq Require Import {modules}.\n")
    subprocess.run(["coqc", "all.v"], cwd=tmp_path, check=True, timeout=600)
    assert shutil.which("coqchk")
    said = subprocess.run(
        ["coqchk", "-o", "-silent", "all"],
        cwd=tmp_path,
        check=True,
        timeout=1200,
        capture_output=True,
        text=True,
    )
    assert "* Axioms: <none>" in said.stdout + said.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"statement": "forall n : nat, n +"}, "the statement"),
        ({"statement": "forall n : natt, n = n"}, "natt"),
        ({"header": "From Coq Require Import Nonsense."}, "the header, line 1"),
        ({"header": "From Coq Require"}, "ends inside a sentence"),
        ({"system": "agda"}, "unknown proof system 'agda', expected one of coq, lean, smt"),
    ],
)
def test_a_reference_that_coq_cannot_read_is_our_fault(change, words):
    found = verify("proof", "lia.", {**SIMPLE, **change})
    assert (found.status, found.reason) == ("error", "internal_error") and words in found.detail
    assert verify("proof", "lia.", SIMPLE).status == "correct"


def test_time_and_memory_are_bounded_and_the_next_proof_is_judged():
    started = time.monotonic()
    slow = verify("proof", "intros. do 1000000000 idtac. lia.", {**SIMPLE, "cpu_s": 1.0})
    assert (slow.status, slow.reason) == ("incorrect", "time_limit") and time.monotonic() - started < 20
    big = verify("proof", "let x := eval vm_compute in (List.repeat 0 (Nat.pow 10 8)) in idtac.",
                 {**SIMPLE, "header": "From Coq Require Import Lia List.", "cpu_s": 20.0, "memory_mb": 512})  # fmt: skip
    assert big.status == "incorrect" and big.reason in (
        "memory_limit",
        "runtime_error",
        "time_limit",
        "wrong",
    ), big
    assert verify("proof", "lia.", SIMPLE).status == "correct"


def test_a_session_that_is_killed_is_replaced():
    assert verify("proof", "lia.", SIMPLE).status == "correct"
    slots = [slot for slot, _ in programs._sessions.values() if slot.process.poll() is None]
    assert slots
    for slot in slots:
        os.kill(slot.process.pid, signal.SIGKILL)
        slot.process.wait()
    found = verify("proof", "intros m. lia.", SIMPLE)
    assert found.status == "correct"


def test_what_was_judged_is_not_judged_again():
    first = verify("proof", "intros k. lia.", SIMPLE)
    again = verify("proof", "intros k. lia.", SIMPLE)
    assert again.cpu_ms == pytest.approx(first.cpu_ms, abs=5) and again.wall_ms < 1.0
    assert report("intros k. lia.", Task(**SIMPLE)) is report("intros k. lia.", Task(**SIMPLE))


def test_no_session_is_left_open_for_the_next_response():
    assert (
        verify(
            "proof",
            "Ltac helper := lia. Lemma mine : 1 = 1. Proof. helper. Qed. "
            "Theorem t : forall n : nat, n + 0 = n. Proof. helper. Qed.",
            SIMPLE,
        ).status
        == "correct"
    )
    for text in ("helper.", "pose proof mine. lia.", "pose proof t. lia."):
        assert verify("proof", f"intros q. {text}", SIMPLE).status == "incorrect", text


def test_nothing_in_a_response_is_no_answer():
    assert verify("proof", "  \n", SIMPLE).status == "no_answer"
    assert verify("proof", "```coq\n\n```", SIMPLE).status == "no_answer"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a. b.", ["a.", "b."]),
        ("a.b. c", ["a.b."]),
        ('a "x. y". b.', ['a "x. y".', "b."]),
        ("(* a. (* b *) *) c.", ["c."]),
        ("- a.\n-- b. { c. }", ["-", "a.", "--", "b.", "{", "c.", "}"]),
        ("2: { a. }", ["2: {", "a.", "}"]),
        ("a... b.", ["a...", "b."]),
        ("all: a.", ["all: a."]),
        ("[|n]: a.", ["[|n]: a."]),
    ],
)
def test_sentences_end_where_coq_ends_them(text, expected):
    assert [s.text for s in coq_text.sentences(text)[0]] == expected


def test_long_texts_are_cut_in_linear_time():
    started = time.monotonic()
    for text in ("a. " * 30_000, "(" * 100_000, "." * 100_000, "{" * 100_000, '"a" ' * 25_000):
        coq_text.sentences(text)
    assert time.monotonic() - started < 5


def test_coq_says_its_version():
    assert coq.find().version.startswith("coq 8.")
