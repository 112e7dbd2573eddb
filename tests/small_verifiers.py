"""Verifiers for tests, named "small_verifiers:function" in problems."""

from verifiers import Verdict


def has(response: str, text: str) -> Verdict:
    return Verdict("correct", "ok") if text in response else Verdict("incorrect", "wrong")


def broken(response: str) -> Verdict:
    raise RuntimeError("the checker fell over")
