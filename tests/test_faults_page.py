"""reasoner/FAULTS.md: every line of its tables names a test that is there, and its faults are those that are tried."""

import ast
import re
from pathlib import Path

import pytest
import torch
from small_models import small_lm

from reasoner.policy.logprobs import sequence_logprobs

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "reasoner" / "FAULTS.md").read_text("utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    table = re.findall(r"^\|.*\|$", PAGE.split(f"## {heading}\n")[1].split("\n## ")[0], flags=re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


@pytest.mark.parametrize("heading", ["Faults, and who sees them", "What comes out the same"])
def test_every_line_names_a_test_that_is_there(heading):
    assert len(rows(heading)) > 10
    named = ""
    for *_, test in rows(heading):
        named = named if test == "the same" else test.strip("`")
        path, name = named.split("::")
        functions = [node.name for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8")))
                     if isinstance(node, ast.FunctionDef)]  # fmt: skip
        assert name in functions, named


def test_the_faults_that_are_tried_are_those_of_the_page():
    source = ast.parse((ROOT / "tests/trainers/test_round_audit.py").read_text("utf-8"))
    tried = next(ast.literal_eval(node.value) for node in source.body
                 if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FAULTS")  # fmt: skip
    shown = {
        fault: "light" if light == "yes" else "full" for fault, light, *_ in rows("Faults, and who sees them")
    }
    assert {fault: shown.get(fault) for fault in tried} == tried
    assert all(row[2] == "yes" for row in rows("Faults, and who sees them"))


def test_threads_change_the_last_bits_at_most():
    lm, text = small_lm("qwen2"), [list(range(3, 60))]
    found = []
    before = torch.get_num_threads()
    for num in (1, 2):
        torch.set_num_threads(num)
        with torch.no_grad():
            found.append(sequence_logprobs(lm, text)[0])
    torch.set_num_threads(before)
    assert len(found[0]) == 56 and found[0] == pytest.approx(found[1], abs=1e-5)
