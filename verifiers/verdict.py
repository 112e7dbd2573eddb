"""Verdict: what a verifier found, as a fact."""

from dataclasses import dataclass

STATUSES = ("correct", "incorrect", "no_answer", "error")
REASONS = (
    "ok",
    "wrong",
    "unparseable",
    "refused",
    "runtime_error",
    "time_limit",
    "memory_limit",
    "output_limit",
    "security",
    "internal_error",
    "unavailable",
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One response, judged. Raises ValueError for a status or reason outside the closed lists.

    status: `incorrect` is something that the candidate did; `error` something that our side failed
    at (reasons internal_error, unavailable), never to be trained on as wrong; `no_answer` says that
    there was nothing to check. score: partial credit in [0, 1], None where the verifier gives none.
    answer: the final answer as extracted. isolation: the sandbox tier that the candidate ran under,
    "none" where nothing was run. cpu_ms, wall_ms: milliseconds spent on this response.
    """

    status: str
    reason: str
    score: float | None = None
    answer: str | None = None
    detail: str = ""
    isolation: str = "none"
    cpu_ms: float = 0.0
    wall_ms: float = 0.0

    def __post_init__(self):
        if self.status not in STATUSES:
            raise ValueError(f"verdict status is {self.status!r}, expected one of {', '.join(STATUSES)}")
        if self.reason not in REASONS:
            raise ValueError(f"verdict reason is {self.reason!r}, expected one of {', '.join(REASONS)}")
        ours = self.reason in ("internal_error", "unavailable")
        if ours != (self.status == "error"):
            raise ValueError(
                f"verdict {self.status}/{self.reason}: error goes with internal_error or unavailable, "
                "and with nothing else"
            )


def failure(detail: str, reason: str = "internal_error") -> Verdict:
    """A verdict on our own failure; `detail` is one line for the log."""
    return Verdict("error", reason, detail=detail)
