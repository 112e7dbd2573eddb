"""The host's side: slots as processes, handed out to whoever has a request; none outlives us."""

import atexit
import contextlib
import json
import os
import queue
import select
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Future

from verifiers.cores import num_cores
from verifiers.sandbox import cgroups, frames, proof
from verifiers.sandbox.limits import Limits, Outcome
from verifiers.sandbox.probe import Isolation, at_least, probe
from verifiers.sandbox.turns import Turns

_START = (
    "import json, sys; c = json.loads(sys.argv[1]); sys.path[:] = c['path'];"
    "from verifiers.sandbox.slot import main; main(c)"
)
_START_S = 60.0
_GRACE_S = 5.0
_RECYCLE_RUNS = 50_000  # nothing grows in 100,000 runs (the soak test); what we do not know of might
# The interpreter's own folders; whatever else is on our path is no candidate's business.
_LIBRARIES = tuple({sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")})


def _is_library(path: str) -> bool:
    return path.startswith(_LIBRARIES) or path.endswith(("site-packages", "dist-packages"))


_PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class SlotFailed(Exception):
    """A slot did not start, died or did not answer: our failure, not the candidate's."""


class NoSlot(SlotFailed):
    """No slot is to be had; trying again at once will not help."""


class TooLittleIsolation(NoSlot):
    """This machine does not give the isolation that candidates need."""


class _Spawner:
    """A thread that starts processes and lives as long as ours does.

    A slot is killed when the thread that started it ends (that is what PR_SET_PDEATHSIG means), so
    none may be started by a caller's short-lived thread.
    """

    def __init__(self):
        self.pid = os.getpid()
        self._wanted: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name="slot-spawner").start()

    def start(self, command: list[str], **options) -> subprocess.Popen:
        """subprocess.Popen in the thread. Raises what it raises."""
        future: Future = Future()
        self._wanted.put((future, command, options))
        return future.result()

    def _work(self) -> None:
        while True:
            future, command, options = self._wanted.get()
            try:
                future.set_result(subprocess.Popen(command, **options))
            except BaseException as problem:
                future.set_exception(problem)


_the_spawner: _Spawner | None = None
_lock = threading.Lock()


def _spawner() -> _Spawner:
    global _the_spawner
    with _lock:
        # After a fork the thread is the parent's only.
        if _the_spawner is None or _the_spawner.pid != os.getpid():
            _the_spawner = _Spawner()
        return _the_spawner


class Slot:
    """One warm interpreter of a kind ("bare", "science", "math"). Raises SlotFailed.

    visible: files and folders of a program that its children may become, to be seen behind the walls.
    """

    def __init__(self, warm: str = "bare", without: tuple[str, ...] = (), visible: tuple[str, ...] = ()):
        if sys.platform != "linux":
            raise TooLittleIsolation(
                f"the sandbox needs Linux, got {sys.platform}: programs and answers that take computer algebra are judged "
                "there only; use a Linux machine or container"
            )
        try:
            ours, theirs = socket.socketpair()
        except OSError as problem:
            raise NoSlot(f"a slot cannot be started: {problem}") from problem
        self._groups = cgroups.make()
        configuration = {
            "groups": self._groups.for_slot(),
            "warm": warm,
            "without": list(without),
            "visible": list(visible),
            "uid": _free_uid(),
            "path": [_PROJECT, *map(os.path.realpath, filter(_is_library, sys.path))],
            "hidden": [] if _is_library(_PROJECT) else [_PROJECT],
        }
        # The Python options: no user site, no site, no script folder; the environment is empty anyway.
        command = [sys.executable, "-s", "-S", "-P", "-B", "-c", _START, json.dumps(configuration)]
        environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        try:
            self.process = _spawner().start(
                command, stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env=environment, cwd="/", start_new_session=True,
            )  # fmt: skip
        except OSError as problem:
            ours.close()
            self._groups.remove()
            raise NoSlot(f"a slot cannot be started: {problem}") from problem
        finally:
            theirs.close()
        self.socket = ours
        self.runs = 0
        header, _ = self._receive(_START_S)
        if not header["ready"]:
            self.end()
            raise NoSlot(f"a {warm} slot cannot be set up: {header['problem']}")
        self.layers: tuple[str, ...] = tuple(header["layers"])
        self.problems: tuple[str, ...] = tuple(header["problems"])
        self.tier = "none"
        try:
            self.tier = isolation_of(self).tier
        except OSError as problem:
            self.end()
            raise NoSlot(f"a slot cannot be probed: {problem}") from problem
        except BaseException:
            self.end()
            raise

    def run(self, header: dict, *blobs: bytes) -> Outcome:
        """Send one request and wait for its outcome."""
        self.runs += 1
        try:
            self.socket.sendall(frames.pack(header, *blobs))
        except OSError as problem:
            self.end()
            raise SlotFailed(f"the slot is gone: {problem}") from problem
        # The slot itself gives up on a starved child after six times its wall limit.
        answer, (stdout, stderr, value) = self._receive(_longest_s(header))
        if answer["ending"] == "failed":
            raise SlotFailed(answer["detail"])
        return Outcome(stdout=stdout, stderr=stderr, value=value, isolation=self.tier, **answer)

    def _receive(self, seconds: float) -> tuple[dict, list[bytes]]:
        fd = self.socket.fileno()
        try:
            poller = select.poll()  # select() takes no descriptor above 1023
            poller.register(fd, select.POLLIN)
            ready = poller.poll(1000 * seconds)
            message = frames.read(fd) if ready else None
        except (OSError, ValueError):
            message, ready = None, [fd]
        if message is None:
            self.end()
            raise SlotFailed("the slot died" if ready else f"the slot did not answer in {seconds:.0f} s")
        return message

    def end(self) -> None:
        """Kill and reap; its children die with their namespace."""
        self.socket.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._groups.remove()


def _longest_s(header: dict) -> float:
    """Seconds in which a slot answers a request, or is given up on."""
    return 6 * header["limits"]["wall_s"] + _GRACE_S


_isolation: dict[tuple[str, ...], Isolation] = {}


def isolation_of(slot: Slot) -> Isolation:
    """What the probe suite found on the first slot with these layers; each other one shares it."""
    if slot.layers not in _isolation:
        found = _isolation[slot.layers] = probe(slot)
        if found.tier != "A" and slot.problems:
            warnings.warn(f"sandbox: tier {found.tier}, not A: {'; '.join(slot.problems)}", stacklevel=2)
    return _isolation[slot.layers]


_uids = iter(range(1 << 30))


def _free_uid() -> int:
    """A uid of no user, another one for each slot of each process on this host, if the map allows."""
    number = os.getpid() * 64 + next(_uids) % 64
    try:
        with open("/proc/self/uid_map") as file:
            _, _, size = (int(part) for part in file.readline().split())
    except (OSError, ValueError):
        size = 65536
    return 10_000_000 + number if size > 1_000_000_000 else 20_000 + number % 40_000


class Pool:
    """Up to `size` slots of one kind, started when wanted, each used by one caller at a time."""

    def __init__(
        self,
        warm: str = "bare",
        size: int | None = None,
        without: tuple[str, ...] = (),
        visible: tuple[str, ...] = (),
    ):
        self.warm, self.without, self.visible = warm, without, visible
        self.size = size or num_cores()
        self._idle: list[Slot] = []
        self._count = 0
        self._changed = threading.Condition()

    def run(self, header: dict, *blobs: bytes) -> Outcome:
        """One request on the next free slot. A slot that fails is replaced; raises SlotFailed."""
        with self.hold(_longest_s(header)) as slot:
            return slot.run(header, *blobs)

    @contextlib.contextmanager
    def hold(self, seconds: float) -> Iterator[Slot]:
        """The next free slot and a turn to run, for several requests that take so long at most. Where the caller raises,
        the slot is ended and the next caller gets a new one; raises SlotFailed."""
        slot = self._take()
        try:
            if not at_least(slot.tier, min_isolation):
                problems = "; ".join(slot.problems) or "no layer reports a problem"
                raise TooLittleIsolation(
                    f"isolation is tier {slot.tier}, expected at least {min_isolation}; "
                    f"see `python -m verifiers probe` ({problems})"
                )
            turn = _turns.take(seconds)
            try:
                yield slot
            finally:
                _turns.give(turn)
        except BaseException:
            slot.end()
            self._return(None)
            raise
        self._return(slot)

    def _take(self) -> Slot:
        with self._changed:
            while not self._idle and self._count >= self.size:
                self._changed.wait()
            while self._idle:
                slot = self._idle.pop()
                if slot.process.poll() is None:
                    return slot
                slot.end()  # killed while idle: nobody's request has to pay for it
                self._count -= 1
            self._count += 1
        try:
            return Slot(self.warm, self.without, self.visible)
        except BaseException:
            self._return(None)
            raise

    def _return(self, slot: Slot | None) -> None:
        with self._changed:
            if slot is not None and slot.runs >= _RECYCLE_RUNS:
                slot.end()
                slot = None
            if slot is None:
                self._count -= 1
            else:
                self._idle.append(slot)
            self._changed.notify()

    def close(self) -> None:
        """End the idle slots."""
        with self._changed:
            while self._idle:
                self._idle.pop().end()
                self._count -= 1


# Candidates run behind at least this tier or not at all; `require` sets it.
min_isolation = "B"


def require(tier: str) -> None:
    """The least isolation that candidates of this process run behind, one of probe.TIERS. Raises ValueError."""
    global min_isolation
    at_least(tier, tier)
    min_isolation = tier


_turns = Turns()
_pools: dict[str, Pool] = {}
_owner = os.getpid()
_pools_lock = threading.Lock()


def shared_pool(warm: str) -> Pool:
    """This process's pool of a kind; after a fork the child gets pools of its own."""
    global _owner
    with _pools_lock:
        if _owner != os.getpid():
            _pools.clear()
            _owner = os.getpid()
        if warm not in _pools:
            _pools[warm] = Pool(warm)
        return _pools[warm]


@atexit.register
def close_all() -> None:
    """End every idle slot of this process."""
    if _owner == os.getpid():
        for pool in _pools.values():
            pool.close()


def run(warm: str, header: dict, *blobs: bytes, limits: Limits | None = None) -> Outcome:
    """A request on the shared pool, tried once more on another slot where the first fails.

    The first request of a kind waits until a right and a wrong one have been told apart by the same path: what
    cannot do that has no opinion. Raises SlotFailed after the second failure, and where the proof fails.
    """
    _prove(warm, header)
    return _tried(warm, {**header, "limits": (limits or Limits()).as_dict()}, *blobs)


def _tried(warm: str, header: dict, *blobs: bytes) -> Outcome:
    try:
        return shared_pool(warm).run(header, *blobs)
    except NoSlot:
        raise
    except SlotFailed:
        time.sleep(0.05)
        return shared_pool(warm).run(header, *blobs)


_proven: set[tuple[int, str, str, str]] = set()
_proving = threading.Lock()
_failed_proofs: dict[tuple[int, str, str, str], tuple[float, str]] = {}  # when, and why


def _prove(warm: str, header: dict) -> None:
    """Known requests of this kind, once per process. Raises SlotFailed where one does not end as it has to."""
    path = (
        os.getpid(),
        warm,
        header["kind"],
        header.get("entry", "") if header["kind"] in ("ask", "scored") else "",
    )
    if path in _proven:
        return
    asked = time.monotonic()
    with _proving:
        if path in _proven:
            return
        when, why = _failed_proofs.get(path, (0.0, ""))
        if when > asked:  # it failed while we waited for it
            raise NoSlot(why)
        try:
            for name, known in proof.known(path[2], path[3]):
                _hold(warm, name, known)
        except SlotFailed as problem:
            _failed_proofs[path] = (time.monotonic(), str(problem))
            raise
        _proven.add(path)


def _hold(warm: str, name: str, known: proof.Known) -> None:
    header = {**known.header, "limits": proof.LIMITS.as_dict()}
    outcome = _tried(warm, header, *known.blobs)
    for _ in range(proof.TRIES - 1):
        if outcome.ending == "starved":
            outcome = _tried(warm, header, *known.blobs)
    if not known.holds(outcome):
        said = outcome.detail or outcome.stderr.decode("utf-8", "replace")[-200:]
        raise SlotFailed(
            f"the sandbox cannot tell right from wrong here: a {name} request of kind {header['kind']!r} ended as "
            f"{outcome.ending} ({said})"
        )
