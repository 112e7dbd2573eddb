"""`reasoner verify`: one response, one verdict, and an exit code that tells them apart."""

from __future__ import annotations

import inspect
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import verifiers
from reasoner.registry import UserError
from verifiers.sandbox import pool

EXIT_CODES = {"correct": 0, "incorrect": 1, "no_answer": 1, "error": 3}  # 2 is a bad call's


def verify(name: str, response: str, reference: str, min_isolation: str) -> int:
    """Print the verdict as JSON; returns the exit code. `response` may be @FILE. A bad call is a UserError."""
    try:
        pool.require(min_isolation)
        text = Path(response[1:]).read_bytes() if response.startswith("@") else response
        arguments = json.loads(reference)
        _check_reference(name, arguments)
        verdict = verifiers.verify(name, text, arguments)
    except OSError as problem:
        raise UserError(
            f"--response names {response[1:]} ({problem.strerror}); expected @FILE to be a readable file"
        ) from problem
    except json.JSONDecodeError as problem:
        raise UserError(
            f'--reference is no JSON ({problem.msg}); expected an object like {{"answer": "5"}}'
        ) from problem
    except (verifiers.UnknownVerifier, ValueError) as problem:
        raise UserError(str(problem)) from problem
    print(json.dumps(asdict(verdict)))
    return EXIT_CODES[verdict.status]


def _check_reference(name: str, reference: Any) -> None:
    """A UserError where it is not the verifier's keyword arguments."""
    signature = inspect.signature(verifiers.lookup(name))
    try:
        signature.bind("", **reference)
    except TypeError as problem:
        keys = ", ".join(list(signature.parameters)[1:]) or "none"
        raise UserError(
            f"--reference is {json.dumps(reference)[:100]} ({problem}); expected an object with keys of: {keys}"
        ) from problem
