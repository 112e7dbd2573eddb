"""What is to be proved, and what came of it."""

from dataclasses import dataclass
from typing import NamedTuple


class Task(NamedTuple):
    """A theorem of a reference. header, statement and name are trusted; axioms are those that a proof may rest on."""

    system: str
    statement: str
    header: str = ""
    name: str = "goal"
    axioms: tuple[str, ...] = ()
    ask: str = "model"  # smt: a model of the constraints, or a formula that says the same
    cpu_s: float = 5.0
    memory_mb: int = 2048


class Step(NamedTuple):
    """One sentence or line of a proof. line: its number in the proof, from 1. right: None where nothing was asked of it
    because one before it had failed."""

    text: str
    line: int
    right: bool | None


@dataclass(frozen=True, slots=True)
class Checked:
    """One proof, judged. status and reason as of verifiers.Verdict; errors are the checker's own words; goals is what is
    left to prove behind the last right step; axioms those that the proof rests on."""

    status: str
    reason: str
    detail: str = ""
    steps: tuple[Step, ...] = ()
    goals: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    axioms: tuple[str, ...] = ()
    isolation: str = "none"
    cpu_ms: float = 0.0
    version: str = ""

    @property
    def failed_line(self) -> int | None:
        """The line of the first wrong step, None where there is none."""
        return next((step.line for step in self.steps if step.right is False), None)


def refused(detail: str) -> Checked:
    """What no proof may say."""
    return Checked("incorrect", "refused", detail)


def failed(detail: str, reason: str = "internal_error") -> Checked:
    """Our own failure: never the candidate's."""
    return Checked("error", reason, detail)
