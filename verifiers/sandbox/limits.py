"""What a child may use, and what became of it."""

from dataclasses import asdict, dataclass

MAX_OUTPUT = 1 << 20  # bytes, unless a test expects more


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one child. Seconds, bytes, counts.

    wall_s counts time in which the child could have run and did not want to (sleep, wait) as well as
    time in which it ran; time in which it was runnable but did not get a CPU is not its own, see
    verifiers.sandbox.supervise. memory is address space beyond the warm interpreter's.
    """

    cpu_s: float = 2.0
    wall_s: float = 6.0
    memory: int = 512 << 20
    stdout: int = MAX_OUTPUT
    stderr: int = 64 << 10
    file_size: int = 16 << 20
    open_files: int = 64
    threads: int = 32

    def as_dict(self) -> dict:
        """For the frame to the slot."""
        return asdict(self)


# How a child ended. "done" needs its completed frame: an exit code means nothing. "starved" (no CPU was to be
# had) and "failed" (no walls, or a kill from outside) are our failures.
ENDINGS = ("done", "crashed", "time_limit", "memory_limit", "output_limit", "security", "starved", "failed")


NOT_PLAIN = "the return value is no plain data"  # detail of a crash


@dataclass(frozen=True, slots=True)
class Outcome:
    """One finished run, as seen from outside; everything in it but `ending` may be the child's lie.

    ending: one of ENDINGS; "failed" never leaves the pool, which raises SlotFailed. value: the encoded
    return value or result frame, b"" without one. cpu_ms, wall_ms, peak_kb: measured by the slot.
    """

    ending: str
    stdout: bytes = b""
    stderr: bytes = b""
    value: bytes = b""
    detail: str = ""
    cpu_ms: float = 0.0
    wall_ms: float = 0.0
    peak_kb: int = 0
    isolation: str = "none"
