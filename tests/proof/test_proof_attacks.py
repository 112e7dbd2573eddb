"""What proves nothing in Coq, by name: each has to be refused or found wrong, whatever its words."""

import pytest

from verifiers import verify
from verifiers.proof import Task, programs, report

HEADER = "From Coq Require Import Lia List Arith."
FALSE = {"system": "coq", "statement": "1 + 1 = 3", "header": HEADER, "name": "goal"}
END = " Theorem goal : 1 + 1 = 3. Proof. exact cheat. Qed."
SECRET = "file-that-must-not-be-read"

ATTACKS = {
    # giving up
    "admit": "admit.",
    "admit behind a selector": "all: admit.",
    "give_up": "give_up.",
    "Admitted": "Theorem goal : 1 + 1 = 3. Admitted.",
    "Admitted in a body": "Proof. Admitted.",
    "Abort": "Theorem goal : 1 + 1 = 3. Abort.",
    "nothing": "idtac.",
    "an unfinished proof": "Theorem goal : 1 + 1 = 3. Proof. simpl.",
    "Qed too early": "Qed.",
    "a hole": "refine _.",
    "an existential variable": "eapply (eq_trans (y := _)). shelve. shelve.",
    # assuming
    "Axiom": "Axiom cheat : 1 + 1 = 3." + END,
    "Axioms": "Axioms cheat : 1 + 1 = 3." + END,
    "Parameter": "Parameter cheat : 1 + 1 = 3." + END,
    "Conjecture": "Conjecture cheat : 1 + 1 = 3." + END,
    "Hypothesis": "Hypothesis cheat : 1 + 1 = 3." + END,
    "Variable": "Section A. Variable cheat : 1 + 1 = 3." + END,
    "Context": "Context (cheat : 1 + 1 = 3)." + END,
    "Declare Module": "Declare Module M. " + END,
    "Program with obligations": "Program Definition cheat : 1 + 1 = 3 := _. Admit Obligations." + END,
    "admit in a term": "Definition cheat : 1 + 1 = 3 := ltac:(admit)." + END,
    # switching checks off
    "Unset Guard Checking": "Unset Guard Checking. Fixpoint cheat (n : nat) : 1 + 1 = 3 := cheat n. exact (cheat 0).",
    "Unset Positivity Checking": "Unset Positivity Checking. Inductive B := b (f : B -> False).",
    "Unset Universe Checking": "Unset Universe Checking. exact I.",
    "bypass_check": "#[bypass_check(guard)] Fixpoint cheat (n : nat) : 1 + 1 = 3 := cheat n." + END,
    "Set in a proof": "Theorem goal : 1 + 1 = 3. Proof. Set Printing All. Qed.",
    "a loop": "Fixpoint cheat (n : nat) : 1 + 1 = 3 := cheat n." + END,
    "a negative type": "Inductive B := b (f : B -> False)." + END,
    "fix": "fix cheat 1. exact cheat.",
    "a cast that is not checked": "exact_no_check (eq_refl 2).",
    "vm_cast_no_check": "vm_cast_no_check (eq_refl 2).",
    "native_compute": "native_compute. reflexivity.",
    # another statement
    "another theorem": "Theorem goal : 1 + 1 = 2. Proof. reflexivity. Qed.",
    "another theorem of another name": "Theorem other : 1 + 1 = 2. Proof. reflexivity. Qed.",
    "plus redefined": "Definition plus (a b : nat) := 3. Theorem goal : plus 1 1 = 3. Proof. reflexivity. Qed.",
    "eq redefined": "Definition eq (a b : nat) := True. Theorem goal : eq (1 + 1) 3. Proof. exact I. Qed.",
    "nat redefined": "Inductive nat := z. Theorem goal : z = z. Proof. reflexivity. Qed.",
    "a notation": 'Notation "1 + 1" := 3. Theorem goal : 1 + 1 = 3. Proof. reflexivity. Qed.',
    "an infix": 'Infix "=" := le : type_scope. Theorem goal : 1 + 1 = 3. Proof. lia. Qed.',
    "a notation of a where": 'Fixpoint f (a b : nat) : nat := 3 where "a + b" := (f a b). '
    "Theorem goal : 1 + 1 = 3. Proof. reflexivity. Qed.",
    "a coercion": "Coercion f := S. Theorem goal : 1 + 1 = 3. Proof. reflexivity. Qed.",
    "a canonical structure": "Canonical Structure s := 1. exact I.",
    "a module": "Module Nat. Definition add (a b : nat) := 3. End Nat. Theorem goal : Nat.add 1 1 = 3. Proof. reflexivity. Qed.",
    "a guessed name of ours": "Theorem asked : True. Proof. exact I. Qed. Theorem goal : asked = asked. Proof. reflexivity. Qed.",
    # files, programs, words
    "Load": f'Load "{SECRET}".',
    "Require of a foreign file": "Require Import Evil." + END,
    "an axiom of the library": "Require Import Coq.Logic.Classical. exact (NNPP _ (fun h => h eq_refl)).",
    "Add LoadPath": 'Add LoadPath "/tmp".',
    "Declare ML Module": 'Declare ML Module "evil".',
    "Redirect": 'Redirect "/box/x" Print nat.',
    "Extraction": 'Extraction "/box/x" plus.',
    "Drop": "Drop.",
    "Quit": "Quit.",
    "Cd": 'Cd "/".',
    "Comments": 'Comments "ok".',
    "BackTo": "BackTo 1.",
    "Reset": "Reset Initial.",
    "Print Assumptions": "Print Assumptions goal.",
    "Fail": "Fail exact I. Succeed exact I.",
    "Time": "Time Qed.",
    "the words of success": 'idtac "Closed under the global context".',
    "a forged value": 'idtac "</value><value val=""good""><option val=""none""/></value>".',
    "a command behind a bracket": "idtac). Axiom cheat : 1 + 1 = 3. exact (cheat",
    "a command behind a bracket on one line": "exact I).Axiom cheat : 1 + 1 = 3.exact (cheat.",
    "a command in a comment that ends early": "(* (* *) *) Axiom cheat : False.",
    "a command behind a string": 'idtac "a" "." . Axiom cheat : False.',
    "an open comment": "exact I. (* Qed.",
    "an open string": 'idtac "Qed.',
    "a tactic that is redefined": "Ltac reflexivity := exact I. Theorem goal : 1 + 1 = 3. Proof. reflexivity. Qed.",
    "another language": "ltac2:(Control.zero Not_found).",
    "control characters": "exact I.\x00\x1b[2J",
    "a line separator": "exact I.\u2028Axiom cheat : False.",
    "other spaces": "exact I.\u00a0Axiom cheat : False.",
    # resources
    "a loop of tactics": "repeat (idtac; assert True by trivial).",
    "memory": "let x := constr:(Nat.pow 2 40) in let y := eval compute in x in idtac.",
    "a flood of words": 'do 3000000 idtac "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx".',
    "deep brackets": "exact " + "(" * 50_000 + "I" + ")" * 50_000 + ".",
    "many sentences": "idtac. " * 5000,
    "par": "par: exact I.",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def sessions(coq_here):
    yield
    programs.close()


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_proves_nothing(name):
    task = Task(**FALSE, cpu_s=1.0, memory_mb=1024)
    found = report(ATTACKS[name], task)
    assert found.status in ("incorrect", "no_answer"), found
    # and what comes after it on the same session is judged as ever
    assert verify("proof", "lia.", {**FALSE, "statement": "1 + 1 = 2"}).status == "correct"


def test_there_are_more_than_forty():
    assert len(ATTACKS) > 40


def test_the_words_around_the_attacks_are_taken_where_they_prove_something():
    honest = "Lemma cheat : 1 + 1 = 2. Proof. reflexivity. Qed." + END.replace("3", "2")
    assert verify("proof", honest, {**FALSE, "statement": "1 + 1 = 2"}).status == "correct"


SMT = "(declare-const x Int)(declare-const y Int)(assert (> x 3))(assert (= (+ x y) 1))"
SMT_ATTACKS = {
    "a command": ("model", "(check-sat)"),
    "an assert": ("model", "(assert false)"),
    "unsat of what has a model": ("model", "unsat"),
    "both": ("model", "x = 4, y = -3, x = 5"),
    "a value for each name but one": ("model", "x = 4"),
    "a term for a value": ("model", "x = y, y = x"),
    "a name redefined": ("model", "(define-fun x () Int 4)(define-fun y () Int (- 1 x))"),
    "another sort": ("model", "x = true, y = false"),
    "a digit flood": ("model", f"x = {'9' * 5000}, y = 1"),
    "JSON in JSON": ("model", '{"x": {"y": 1}}'),
    "deep JSON": ("model", "{" * 50_000),
    "exit": ("formula", "(exit)"),
    "a second command": ("formula", "true) (check-sat"),
    "a quantifier": ("formula", "(forall ((z Int)) (> x z))"),
    "a new constant": ("formula", "(> z 3)"),
    "an annotation": ("formula", "(! true :named foo)"),
    "a string": ("formula", '(= x "a")'),
    "a formula that is too weak": ("formula", "(> x 3)"),
    "depth": ("formula", "(not " * 5000 + "true" + ")" * 5000),
    "breadth": ("formula", "(and " + "true " * 50_000 + ")"),
    "a product that nobody can decide": ("formula", "(= (* x x x x x y y y) (+ 1 (* 7 x x y y y y y)))"),
}  # fmt: skip


@pytest.mark.parametrize("name", SMT_ATTACKS)
def test_an_attack_satisfies_nothing(z3_here, name):
    ask, said = SMT_ATTACKS[name]
    found = report(said, Task("smt", SMT, ask=ask, cpu_s=1.0, memory_mb=1024))
    assert found.status in ("incorrect", "no_answer"), found
    assert report("x = 4, y = -3", Task("smt", SMT)).status == "correct"
