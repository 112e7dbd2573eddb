"""The Lean client against answers that a real REPL gave, replayed by a stand-in process behind the sandbox's walls.

Nothing here says that it works with Lean: where the REPL that launch/lean.sh installs is there, the last test asks it.
"""

import json
import os
import sys
from pathlib import Path

import pytest

from verifiers.proof import Task, dead_end, lean, lean_text, programs, report

STAND_IN = Path(__file__).with_name("repl_stand_in.py")
HEADER = (
    "import Mathlib\nimport Aesop\n\nset_option maxHeartbeats 0\n\nopen BigOperators Real Nat Topology Rat"
)
TIMED_OUT = {f"goedel-lean_workbook_{n}" for n in ("10036", "10090", "10303", "1036")}


def install(folder: Path, recorded: dict) -> None:
    """A stand-in in the place where launch/lean.sh puts the REPL."""
    python = os.path.realpath(sys.executable)
    (folder / "repl_stand_in.py").write_text(STAND_IN.read_text("utf-8"), "utf-8")
    (folder / "recorded.json").write_text(json.dumps(recorded), "utf-8")
    os.chmod(folder, 0o755)
    row = {
        "version": f"stand-in {folder}", "env": {}, "visible": [str(folder)], "runs": [python],
        "argv": [python, "-I", "-S", str(folder / "repl_stand_in.py"), str(folder / "recorded.json")],
    }  # fmt: skip
    (folder / "program.json").write_text(json.dumps(row), "utf-8")


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Installs a stand-in with recorded answers to commands."""

    def start(recorded: dict) -> None:
        known = {"theorem goal  : ∀ n : Nat, n = n := by\n  intro n\n  rfl": {},
                 "theorem goal  : ∀ n : Nat, n = n := by\n  intro n": error(1, "unsolved goals\nn : ℕ\n⊢ n = n")}  # fmt: skip
        install(tmp_path, {**known, **recorded})
        monkeypatch.setattr(lean, "FOLDER", str(tmp_path))

    yield start
    programs.close()


def error(line: int, data: str) -> dict:
    place = {"line": line, "column": 2}
    return {"messages": [{"severity": "error", "pos": place, "endPos": place, "data": data}]}


def task(text: str, cpu_s: float = 0.5) -> Task:
    name, binders, kind = lean_text.parts(lean_text.split_imports(text)[1])
    return Task("lean", f"theorem {name} {binders} : {kind}", HEADER, cpu_s=cpu_s)


def test_every_recorded_answer_is_read_as_lean_meant_it(stand_in, shared_data):
    rows = [
        json.loads(r) for r in (shared_data / "lean/kimina_match_cases.visible.jsonl").open(encoding="utf-8")
    ]
    assert len(rows) == 65
    recorded = {}
    for row in rows:
        (result,) = row["repl_output"]["results"]
        said = None if result["error"] else {k: v for k, v in result["response"].items() if k != "env"}
        recorded[lean_text.split_imports(row["lean"])[1].strip()] = said
    stand_in(recorded)
    found = {row["name"]: report(row["lean"], task(row["lean"])) for row in rows}
    assert {n for n, f in found.items() if (f.status, f.reason) == ("incorrect", "time_limit")} == TIMED_OUT
    others = {
        n: (f.status, f.reason, f.failed_line, f.axioms) for n, f in found.items() if n not in TIMED_OUT
    }
    assert set(others.values()) == {("correct", "ok", None, ("propext", "Classical.choice", "Quot.sound"))}
    assert all(f.isolation == "A" for n, f in found.items() if n not in TIMED_OUT)


WHOLE = "import Mathlib\n\ntheorem two (n : ℕ) (h : n = 2) : n + n = 4 := by\n  subst h\n  norm_num\n  ring"


@pytest.mark.parametrize(
    ("said", "reason", "line", "detail"),
    [
        ({}, "ok", None, ""),
        (error(5, "no goals to be proved"), "wrong", 6, "line 6: no goals to be proved"),
        (error(3, "unsolved goals\nn : ℕ\n⊢ n = 4"), "wrong", 4, "line 4: unsolved goals\nn : ℕ\n⊢ n = 4"),
        ({"sorries": [{"pos": {"line": 4, "column": 2}, "goal": "⊢ 2 + 2 = 4"}]}, "refused", None, "it uses sorry"),
        ({"messages": [{"severity": "warning", "pos": {"line": 2, "column": 0}, "data": "declaration uses 'sorry'"}]},
         "refused", None, "it uses sorry"),
    ],
)  # fmt: skip
def test_verdict_line_and_reason_of_answers_in_the_repls_form(stand_in, said, reason, line, detail):
    stand_in({lean_text.split_imports(WHOLE)[1].strip(): said})
    found = report(f"```lean4\n{WHOLE}\n```", task(WHOLE))
    assert (found.reason, found.failed_line, found.detail) == (reason, line, detail)
    if line is not None:
        assert [s.right for s in found.steps if s.line < line] == [True] * sum(
            s.line < line for s in found.steps
        )


def test_what_the_repl_itself_cannot_do_is_no_fault_of_the_proof(stand_in):
    stand_in({lean_text.split_imports(WHOLE)[1].strip(): {"message": "Unknown environment.", "env": None}})
    found = report(WHOLE, task(WHOLE))
    assert (found.status, found.reason) == ("error", "internal_error")


def test_a_prefix_is_dead_where_a_line_of_it_fails_and_not_where_goals_are_left(stand_in):
    body = "theorem two (n : ℕ) (h : n = 2) : n + n = 4 := by\n  subst h\n  nonsense"
    stand_in(
        {
            body: error(3, "unknown tactic"),
            body.replace("\n  nonsense", ""): error(1, "unsolved goals\n⊢ 2 + 2 = 4"),
        }
    )
    reference = {
        "system": "lean",
        "statement": "theorem two (n : ℕ) (h : n = 2) : n + n = 4",
        "header": HEADER,
    }
    assert dead_end("subst h\nnonsense\n", **reference)
    assert not dead_end("subst h\n", **reference)
    assert not dead_end("subst h\nnonsense", **reference)  # the line is not whole


ATTACKS = {
    "sorry": "sorry", "admit": "admit", "sorry by another name": "exact sorryAx _ true",
    "sorry in quotes": "exact «sorryAx» _ true", "a guess": "apply?",
    "an axiom": "trivial\naxiom cheat : False", "native evaluation": "native_decide", "evaluation": "trivial\n#eval 1",
    "input and output": "trivial\n#eval IO.println \"ok\"", "a macro": "trivial\nmacro \"rfl\" : tactic => `(tactic| skip)",
    "a notation": "trivial\nnotation \"ℕ\" => Unit", "an instance": "trivial\nlocal instance : Add Nat := ⟨Nat.mul⟩",
    "an option": "trivial\nset_option debug.skipKernelTC true", "an attribute": "trivial\n@[implemented_by foo] def bar := 1",
    "csimp": "trivial\n@[csimp] theorem x : 1 = 1 := rfl", "unsafe": "trivial\nunsafe def x : False := x",
    "a program at elaboration": "run_tac Lean.logInfo \"ok\"", "metaprogramming": "open Lean Elab in trivial",
    "an elaborator": "trivial\nelab \"x\" : term => pure default",
    "a simproc": "trivial\nsimproc x (_) := fun _ => pure .continue",
    "an import": "import Evil\ntheorem goal : True := trivial", "hidden by a comment": "/- -/ sorry /- -/",
    "a file's input": "exact (IO.FS.readFile \"x\" : _)", "printing the axioms itself": "trivial\n#print axioms goal",
    "another syntax": "trivial\nsyntax \"foo\" : tactic", "initialisation": "trivial\ninitialize x : Nat ← pure 1",
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_what_proves_nothing_in_lean_is_refused_before_it_is_asked(stand_in, name):
    stand_in({})
    found = report(ATTACKS[name], Task("lean", "theorem goal : 1 + 1 = 3", "import Mathlib"))
    assert (found.status, found.reason) == ("incorrect", "refused"), found


def test_words_in_comments_and_names_are_no_attacks():
    text = "-- no sorry here\n/- axiom /- nested -/ sorry -/\nhave sorry_free : 1 = 1 := rfl\nexact h.instance_ok"
    assert lean_text.why_refused(lean_text.blanked(text)) == ""


def test_published_proofs_use_nothing_that_is_refused(shared_data):
    import gzip

    with gzip.open(shared_data / "lean/dspv2_minif2f_proofs_valid.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["lean"] for line in file]
    assert len(texts) == 221
    assert [
        w for t in texts if (w := lean_text.why_refused(lean_text.blanked(lean_text.split_imports(t)[1])))
    ] == []


def test_on_lean_itself():
    if lean.find() is None:
        pytest.skip(
            "Lean is not installed (bash launch/lean.sh): its client is tested against recorded answers only"
        )
    goal = Task("lean", "theorem goal (n : Nat) : n + 0 = n", "")
    assert report("rfl", goal).status == "correct"
    assert report("intro h", goal).failed_line == 1
    assert report("theorem goal (n : Nat) : n = n := rfl", goal).reason == "wrong"
