"""Critiques judged by where the first error is."""

import pytest

from verifiers import verify
from verifiers.critique import NO_ERROR, UNDECIDED, read_critique, unreadable


@pytest.mark.parametrize(
    ("response", "first_error", "expected"),
    [
        ("First error: 2", 1, ("correct", "ok", "2")),
        ("First error: 2", 0, ("incorrect", "wrong", "2")),
        ("First error: 2", -1, ("incorrect", "wrong", "2")),
        ("First error: none", -1, ("correct", "ok", "none")),
        ("First error: none", 1, ("incorrect", "wrong", "none")),
        # what stands before is free, the last verdict line counts
        ("5-4 is 1, so [2] is off.\n[1] right\n[2] wrong\nFirst error: 2", 1, ("correct", "ok", "2")),
        ("First error: none\nNo, wait.\nFirst error: 2\n", 1, ("correct", "ok", "2")),
        ("First error: 2\nFirst error: 3", 1, ("incorrect", "wrong", "3")),
        # a line that cannot be read takes back the one before it
        ("First error: 2\nFirst error: 4", 1, ("no_answer", "unparseable", None)),
        ("First error: 2\nFirst error: 2 or 3", 1, ("no_answer", "unparseable", None)),
        ("First error: 2\nFirst error:", 1, ("no_answer", "unparseable", None)),
        ("", 1, ("no_answer", "unparseable", None)),
        ("[1] right\n[2] wrong", 1, ("no_answer", "unparseable", None)),
        ("the First error: 2", 1, ("no_answer", "unparseable", None)),
        ("First error: 0", -1, ("no_answer", "unparseable", None)),
    ],
)
def test_the_last_verdict_line_is_judged(response, first_error, expected):
    found = verify("critique", response, {"first_error": first_error, "num_steps": 3})
    assert (found.status, found.reason, found.answer) == expected
    assert found.isolation == "none"


@pytest.mark.parametrize(("first_error", "num_steps"), [(3, 3), (-2, 3), ("1", 3), (None, 3), (True, 3), (0, None)])  # fmt: skip
def test_a_reference_that_names_no_step_is_our_failure(first_error, num_steps):
    reference = {"first_error": first_error, "num_steps": num_steps}
    assert "expected whole numbers, from -1 to num_steps - 1" in unreadable(**reference)
    assert verify("critique", "First error: 1", reference).status == "error"
    assert unreadable(first_error=-1, num_steps=1) == unreadable(first_error=0, num_steps=1) == ""


def test_long_numbers_and_steps_are_read():
    assert read_critique("First error: 1200", 1200) == 1199
    assert read_critique("First error: 12000", 99999) == UNDECIDED
    assert read_critique("First error:   none  \n", 1) == NO_ERROR
