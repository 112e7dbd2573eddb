"""Truth values and numbers as data files write them: one reading for every importer and every replay.

JSON, CSV, pandas and people spell the same verdict in many ways. What is none of them is an error, never a no.
"""

from __future__ import annotations

import math
from typing import Any

YES = ("true", "yes", "y", "1", "1.0", "correct", "right", "pass", "passed")
NO = ("false", "no", "n", "0", "0.0", "-0.0", "incorrect", "wrong", "fail", "failed")
SPELLINGS = {**dict.fromkeys(YES, True), **dict.fromkeys(NO, False)}
EXPECTED = "true or false (also 1 or 0, yes or no, correct or incorrect, passed or failed)"


def truth(value: Any) -> bool:
    """A truth value in any of its usual spellings; ValueError for anything else, null among it."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return value == 1
    if isinstance(value, str) and value.strip().casefold() in SPELLINGS:
        return SPELLINGS[value.strip().casefold()]
    raise ValueError(f"{_shown(value)} is no truth value; expected {EXPECTED}")


def number(value: Any) -> float:
    """A finite number, as such or as text; ValueError for anything else."""
    try:
        found = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{_shown(value)} is no finite number; expected one")
    return found


def whole_number(value: Any) -> int:
    """A whole number, as such, as 3.0 or as text; ValueError for anything else, truth values among it."""
    found = math.nan if isinstance(value, bool) else number(value)
    if not float(found).is_integer():
        raise ValueError(f"{_shown(value)} is no whole number; expected one")
    return int(found)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
