"""Functional verifiers: what a response achieved, checked by rules instead of by a model.

    import verifiers
    verifiers.verify("math", r"So it is \\boxed{7.140}.", {"answer": "7.14"}).status  # "correct"

A leaf: knows no model, no tree, no torch. Importing it loads nothing heavy and starts no process.
"""

import difflib
import importlib
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

from verifiers.cores import num_cores
from verifiers.verdict import Verdict, failure

__all__ = ["VERIFIERS", "UnknownVerifier", "Verdict", "lookup", "verify", "verify_many"]

Verifier = Callable[..., Verdict]
Id = TypeVar("Id", bound=Hashable)

# name → "module:function"; a verifier's reference keys are in its docstring.
VERIFIERS = {
    "math": "verifiers.math_answer:math",
    "steps": "verifiers.arithmetic_steps:steps",
    "critique": "verifiers.critique:critique",
    "code": "verifiers.code_tests:code",
    "logic": "verifiers.logic:logic",
    "proof": "verifiers.proof:proof",
}
PATIENCE_S = 600.0  # for one verdict of a verifier from outside
_loaded: dict[str, Verifier] = {}


class UnknownVerifier(KeyError):
    """The name is neither in VERIFIERS nor a loadable "module:function"."""

    def __str__(self) -> str:
        return str(self.args[0])


def lookup(name: str) -> Verifier:
    """The verifier of a name of VERIFIERS or of "module:function". Raises UnknownVerifier."""
    if name in _loaded:
        return _loaded[name]
    path = VERIFIERS.get(name, name if ":" in name else "")
    if not path:
        near = difflib.get_close_matches(name, VERIFIERS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else 'or name your own as "module:function"'
        raise UnknownVerifier(f"unknown verifier {name!r}, expected one of {', '.join(VERIFIERS)}; {hint}")
    module, _, function = path.partition(":")
    try:
        _loaded[name] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as problem:
        raise UnknownVerifier(
            f"verifier {name!r} cannot be loaded ({problem}), expected an importable module:function; "
            "check PYTHONPATH and the spelling"
        ) from problem
    return _loaded[name]


def verify(name: str, response: str | bytes, reference: dict) -> Verdict:
    """Judge one response. `reference` is exactly the verifier's keyword arguments.

    Raises UnknownVerifier. Whatever a verifier raises is our failure: error/internal_error.
    """
    return _judge(lookup(name), name, response, reference)


def verify_many(
    requests: Iterable[tuple[Id, str, str, dict]], workers: int | None = None
) -> Iterator[tuple[Id, Verdict]]:
    """Judge (id, name, response, reference) requests; yields (id, verdict) as they come.

    What a verifier can settle in this process (its `quick` attribute) is settled at once; the rest
    waits for sandbox slots in `workers` threads (default: one per core), and comes back in the order
    in which it ends, so keep the ids. Requests are drawn lazily, a few ahead of the verdicts: a
    generator may still be writing them. A verifier from outside that does not return in PATIENCE_S is an
    error/unavailable. Raises UnknownVerifier.
    """
    from functools import partial

    from verifiers.workers import Job, Workers

    count = workers or num_cores()
    threads: Workers[Id] = Workers(count)
    waiting = 0
    try:
        for request_id, name, response, reference in requests:
            verifier = lookup(name)
            quick = getattr(verifier, "quick", None)
            verdict = _timed(quick, name, response, reference) if quick is not None else None
            if verdict is not None:
                yield request_id, verdict
            else:
                # Ours bound themselves: each of their waits ends.
                patience_s = None if name in VERIFIERS else PATIENCE_S
                threads.submit(
                    Job(request_id, partial(_judge, verifier, name, response, reference), name, patience_s)
                )
                waiting += 1
            while waiting and (waiting > 4 * count or threads.has_finished()):
                yield threads.next()
                waiting -= 1
        for _ in range(waiting):
            yield threads.next()
    finally:
        threads.close()


def _judge(verifier: Verifier, name: str, response: str | bytes, reference: dict) -> Verdict:
    verdict = _timed(verifier, name, response, reference)
    return verdict or failure(f"verifier {name!r} returned a NoneType, expected a Verdict")


def _timed(
    verifier: Callable[..., Verdict | None], name: str, response: str | bytes, reference: dict
) -> Verdict | None:
    """The verifier's verdict, timed and with one printable line of detail; None is a quick one's
    "not decided here"."""
    started, cpu_started = time.perf_counter(), time.thread_time()
    try:
        verdict = verifier(_as_text(response), **reference)
        if verdict is None:
            return None
        if not isinstance(verdict, Verdict):
            verdict = failure(f"verifier {name!r} returned a {type(verdict).__name__}, expected a Verdict")
    except BaseException as problem:
        # Ctrl-C reaches the main thread alone; whatever else a verifier raises is its failure, SystemExit too.
        if isinstance(problem, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        verdict = failure(f"verifier {name!r}: {type(problem).__name__}: {problem}"[:500])
    return replace(
        verdict,
        detail=_printable(verdict.detail),
        cpu_ms=verdict.cpu_ms + 1000 * (time.thread_time() - cpu_started),
        wall_ms=1000 * (time.perf_counter() - started),
    )


def _printable(detail: str) -> str:
    """One line without control characters: details hold a candidate's words and go to logs."""
    if detail.isprintable():
        return detail
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in detail)


def _as_text(response: str | bytes) -> str:
    """Text of a response; bytes in a wrong encoding are read with replacement characters."""
    if isinstance(response, bytes):
        return response.decode("utf-8", errors="replace")
    if not isinstance(response, str):
        raise TypeError(f"response is a {type(response).__name__}, expected str or bytes")
    return response
