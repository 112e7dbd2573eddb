"""Runs every attack and prints one JSON line each; `python -m tests.attacks.run_all`.

A process of its own, so that the same attacks can be run as another user.
"""

import json
import os
import sys

from tests.attacks import answers, programs, suites
from verifiers import verify
from verifiers.sandbox import pool

_CONTROL = ("print(int(input()) * 2)", {"inputs": ["21\n"], "outputs": ["42\n"], "cpu_s": 5.0})


def _code_attacks():
    limits = {"cpu_s": 0.4, "memory_mb": 256}
    for group in ("INTEGRITY", "RESOURCES", "ISOLATION"):
        for name, (program, reasons) in getattr(programs, group).items():
            reference = {"inputs": ["1\n", "2\n"], "outputs": ["42\n", "42\n"], "extract": "whole", **limits}
            yield f"{group.lower()}:{name}", "code", program, reference, reasons
    for name, candidate in suites.CANDIDATES.items():
        reference = {"asserts": suites.ASSERTS, "extract": "whole", **limits}
        yield f"suite:{name}", "code", candidate, reference, None
        calls = {
            "entry_point": "f",
            "inputs": [[1], [2], [[1]]],
            "outputs": [41, 43, [2]],
            "extract": "whole",
        }
        yield f"call:{name}", "code", candidate, {**calls, **limits}, None


def _answer_attacks():
    for name, (gold, answer, reasons) in answers.ANSWERS.items():
        yield f"answer:{name}", "math", answer, {"answer": gold, "extract": "whole"}, reasons
    for name, (answer, reasons) in answers.PUZZLES.items():
        reference = {"puzzle": "countdown", "numbers": [4, 6, 1, 1], "target": 24, "extract": "whole"}
        yield f"puzzle:{name}", "logic", answer, reference, reasons


def _slot_pids() -> list[int]:
    return [slot.process.pid for slot in pool.shared_pool("bare")._idle]


def _verdict(verifier: str, response: str, reference: dict):
    """The verdict; where the machine is too busy to give the attack its CPU, another try, as for any program."""
    for _ in range(5):
        verdict = verify(verifier, response, reference)
        if "did not get the CPU" not in verdict.detail:
            break
    return verdict


def main() -> None:
    """Every attack on a pool of one slot, the control after each."""
    pool.shared_pool("bare").size = 1
    pool.shared_pool("math").size = 1
    assert verify("code", *_CONTROL).status == "correct"
    slot = _slot_pids()
    for attacks in (_code_attacks(), _answer_attacks()):
        for name, verifier, response, reference, reasons in attacks:
            verdict = _verdict(verifier, response, reference)
            control = _verdict("code", *_CONTROL)
            row = {
                "name": name,
                "status": verdict.status,
                "reason": verdict.reason,
                "detail": verdict.detail[:200],
                "expected": sorted(reasons) if reasons else None,
                "isolation": verdict.isolation,
                "wall_ms": round(verdict.wall_ms),
                "next_run": control.status,
                "slot_alive": _slot_pids() == slot,
                "uid": os.getuid(),
            }
            sys.stdout.write(json.dumps(row) + "\n")
            slot = _slot_pids()


if __name__ == "__main__":
    main()
