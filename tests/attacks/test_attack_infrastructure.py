"""What happens to us: killed slots, killed trainers, missing layers, no descriptors, no disk, leaks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reasoner.registry import UserError
from verifiers import verify, verify_many
from verifiers.sandbox import cgroups, pool, probe
from verifiers.sandbox.limits import Limits

ROOT = Path(__file__).resolve().parents[2]


PRINT_42 = {"inputs": [""], "outputs": ["42\n"]}


LIMITS = Limits(cpu_s=0.5, wall_s=1.0).as_dict()


@pytest.fixture
def slot():
    one = pool.Slot("bare")
    yield one
    one.end()


def _inside(process_id: int) -> int:
    """The slot proper: the one child of the process that we started."""
    return int(Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()[0])


def _slots_of_ours() -> list[int]:
    """Slots that this process has started, whichever of its threads did."""
    children = [
        int(child)
        for task in Path("/proc/self/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    return [p for p in children if b"sandbox.slot" in Path(f"/proc/{p}/cmdline").read_bytes()]


def _gone(process_id: int, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_a_killed_slot_costs_one_retry():
    assert verify("code", "print(42)", PRINT_42).status == "correct"
    for slot in list(pool.shared_pool("bare")._idle):
        os.kill(slot.process.pid, signal.SIGKILL)
    assert verify("code", "print(42)", PRINT_42).status == "correct"


def test_slots_outlive_the_thread_that_wanted_them():
    requests = [(n, "code", "print(42)", PRINT_42) for n in range(8)]
    list(verify_many(requests))
    before = {slot.process.pid for slot in pool.shared_pool("bare")._idle}
    time.sleep(0.2)
    assert {verdict.status for _, verdict in verify_many(requests)} == {"correct"}
    assert before and before <= {slot.process.pid for slot in pool.shared_pool("bare")._idle}


def test_a_slot_killed_while_running_does_not_hurt_the_batch():
    requests = [
        (n, "code", f"import time\ntime.sleep(0.05)\nprint({n})", {"inputs": [""], "outputs": [f"{n}\n"]})
        for n in range(30)
    ]

    verdicts = {}
    for number, verdict in verify_many(requests):
        if not verdicts:
            os.kill(_slots_of_ours()[0], signal.SIGKILL)
        verdicts[number] = verdict.status
    assert verdicts == dict.fromkeys(range(30), "correct")  # what the dead slot had was tried again


def test_a_killed_trainer_leaves_no_orphan():
    script = (
        "from verifiers.sandbox import pool\nfrom verifiers.sandbox.limits import Limits\n"
        "slot = pool.Slot('bare')\nprint(slot.process.pid, flush=True)\n"
        "header = {'kind': 'program', 'limits': Limits(cpu_s=60, wall_s=60).as_dict()}\n"
        "slot.run(header, b'while True: pass', b'')\n"
    )
    trainer = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    outer = int(trainer.stdout.readline())
    inner = _inside(outer)
    deadline = time.monotonic() + 5
    while not (candidates := Path(f"/proc/{inner}/task/{inner}/children").read_text().split()):
        assert time.monotonic() < deadline
    trainer.kill()
    trainer.wait()
    trainer.stdout.close()
    assert all(_gone(p) for p in (outer, inner, *map(int, candidates)))


def test_nothing_leaks_in_a_thousand_runs(slot):
    inner = _inside(slot.process.pid)

    def state():
        status = Path(f"/proc/{inner}/status").read_text()
        resident = int(status.split("VmRSS:")[1].split()[0])
        return len(os.listdir(f"/proc/{inner}/fd")), resident

    programs = [
        b"print(42)",
        b"open('/box/x', 'w').write('x')",
        b"import os\nos._exit(3)",
        b"x = bytearray(1 << 30)",
    ]
    suite = {"kind": "suite", "entries": ["f"], "limits": LIMITS}
    for n in range(100):
        slot.run({"kind": "program", "limits": LIMITS}, programs[n % 4], b"")
    before = state()
    for n in range(800):
        slot.run({"kind": "program", "limits": LIMITS}, programs[n % 4], b"")
    for _ in range(100):
        slot.run(suite, b"def f(x): return x", b"", b"assert f(1) == 1")
    for _ in range(4):
        slot.run(
            {"kind": "program", "limits": LIMITS},
            b"import os\nwhile True: os.write(2, b'x' * 9999)",
            b"",
        )
    after = state()
    assert after[0] == before[0]
    assert after[1] < before[1] + 2000  # kB
    assert Path(f"/proc/{inner}/task/{inner}/children").read_text() == ""


@pytest.mark.slow
def test_soak_of_a_hundred_thousand_runs(slot):
    """Of every ten runs one leaves files in its box, one a crash, and one is a suite of two children."""
    inner = _inside(slot.process.pid)
    programs = [b"print(42)"] * 7 + [b"open('/box/x', 'w').write('x')", b"import os\nos._exit(3)"]
    suite = (b"def f(x): return x", b"", b"assert f(1) == 1")
    rows = []
    for n in range(100_000):
        if n % 10 == 9:
            slot.run({"kind": "suite", "entries": ["f"], "limits": LIMITS}, *suite)
        else:
            slot.run({"kind": "program", "limits": LIMITS}, programs[n % 10], b"")
        if n % 10_000 == 9_999:
            resident = [int(Path(f"/proc/{p}/statm").read_text().split()[1]) * 4 for p in (inner, "self")]
            opened = [len(os.listdir(f"/proc/{p}/fd")) for p in (inner, "self")]
            children = Path(f"/proc/{inner}/task/{inner}/children").read_text().split()
            rows.append((*resident, *opened, len(children)))
            print(
                f"{n + 1} runs: slot {resident[0]} kB, {opened[0]} descriptors; ours {resident[1]} kB, {opened[1]}"
            )
    slots, ours, slot_opened, our_opened, children = zip(*rows, strict=True)
    assert max(slots) - min(slots) < 2000 and max(ours) - min(ours) < 2000  # kB
    assert len(set(slot_opened)) == len(set(our_opened)) == 1
    assert set(children) == {0}


@pytest.mark.parametrize(
    ("without", "tier"),
    [
        ((), "A"),
        (("namespaces",), "B"),
        (("landlock",), "B-landlock"),
        (("namespaces", "landlock"), "C"),
        (("seccomp",), "none"),
    ],
)
def test_the_tier_is_what_the_probes_find(without, tier):
    slot = pool.Slot("bare", without)
    try:
        assert slot.tier == tier
        assert slot.run({"kind": "program", "limits": LIMITS}, b"print(42)", b"").isolation == tier
    finally:
        slot.end()


def test_below_the_minimum_nothing_runs(monkeypatch):
    weak = pool.Pool("bare", 1, without=("namespaces", "landlock"))
    monkeypatch.setitem(pool._pools, "bare", weak)
    monkeypatch.setattr(pool, "_owner", os.getpid())
    verdict = verify("code", "print(42)", PRINT_42)
    assert (verdict.status, verdict.reason) == ("error", "unavailable")
    assert "isolation is tier C, expected at least B" in verdict.detail
    monkeypatch.setattr(pool, "min_isolation", "C")
    assert verify("code", "print(42)", PRINT_42).isolation == "C"
    weak.close()


def test_the_command_line_sets_the_minimum(monkeypatch, capsys):
    from reasoner.cli import app

    weak = pool.Pool("bare", 1, without=("namespaces", "landlock"))
    monkeypatch.setitem(pool._pools, "bare", weak)
    monkeypatch.setattr(pool, "_owner", os.getpid())
    monkeypatch.setattr(pool, "min_isolation", "B")
    command = ["verify", "code", "--response", "print(42)", "--reference", json.dumps(PRINT_42)]
    assert app(command, standalone_mode=False) == 3
    assert json.loads(capsys.readouterr().out)["reason"] == "unavailable"
    assert app([*command, "--min-isolation", "C"], standalone_mode=False) == 0
    assert json.loads(capsys.readouterr().out)["isolation"] == "C"
    with pytest.raises(UserError, match="isolation tier 'Z', expected one of A, B"):
        app([*command, "--min-isolation", "Z"], standalone_mode=False)
    weak.close()


def test_an_unknown_tier_is_refused():
    with pytest.raises(ValueError, match="isolation tier 'Z', expected one of A, B, B-landlock, C, none"):
        probe.at_least("A", "Z")
    with pytest.raises(ValueError, match="'Z'"):
        pool.require("Z")
    assert pool.min_isolation == "B"


def _statuses_of(script: str) -> list[str]:
    """What a fresh process prints that has `judge` for a program whose output is 42."""
    head = (
        "import os, resource, sys\nfrom verifiers import lookup, verify\nlookup('code')\n"
        "def judge():\n    v = verify('code', 'print(42)', {'inputs': [''], 'outputs': ['42']})\n"
        "    print(v.status, v.reason, v.detail)\n"
    )
    done = subprocess.run([sys.executable, "-c", head + script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_no_descriptors_left_is_our_failure_and_the_next_request_runs_clean():
    none_left = (
        "held = []\ntry:\n    while True: held.append(os.open('/dev/null', os.O_RDONLY))\n"
        "except OSError: pass\njudge()\nfor fd in held: os.close(fd)\n"
    )
    limit = "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))\n"
    fresh, after, warm, last = _statuses_of(f"{limit}{none_left}judge()\n{none_left}judge()\n")
    assert fresh == "error unavailable sandbox: a slot cannot be started: [Errno 24] Too many open files"
    assert {after, warm, last} == {"correct ok "}  # a warm slot needs no further descriptor of ours


def test_a_trainer_with_many_open_files_is_served():
    many = "resource.setrlimit(resource.RLIMIT_NOFILE, (3000, 3000))\nheld = [os.dup(0) for _ in range(2000)]\njudge()\n"
    assert _statuses_of(many) == ["correct ok "]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk so small that it is full")
def test_no_room_on_disk_is_our_failure_and_the_next_request_runs_clean(tmp_path):
    # A mount namespace of its own: the tiny disk is seen by the script and its slots alone.
    full = (
        "from verifiers.sandbox import linux\nimport tempfile\n"
        "linux.unshare(linux.CLONE_NEWNS)\nlinux.mount('none', '/', 'none', linux.MS_REC | linux.MS_PRIVATE)\n"
        f"folder = tempfile.tempdir = {str(tmp_path)!r}\nlinux.mount('disk', folder, 'tmpfs', 0, 'size=32k,nr_inodes=16')\n"
        "def fill():\n    n = 0\n    try:\n        while True:\n            n += 1\n"
        "            with open(f'{folder}/{n}', 'wb') as file: file.write(bytes(4096))\n    except OSError: pass\n"
        "def make_room():\n    for name in os.listdir(folder):\n        if name.isdecimal(): os.unlink(f'{folder}/{name}')\n"
    )
    fresh, after, warm = _statuses_of(f"{full}fill()\njudge()\nmake_room()\njudge()\nfill()\njudge()\n")
    assert fresh.startswith(
        "error unavailable sandbox: a slot cannot be probed: [Errno 28] No space left on device"
    )
    assert after == warm == "correct ok "


def test_a_slots_groups_bound_its_children_and_go_with_it():
    if not any(place.limit for place in cgroups.places()):
        pytest.skip("this machine gives no memory control group")
    slot = pool.Slot("bare")
    groups = dict(slot._groups.groups)
    folder = next(folder for place, folder in groups.items() if place.limit)
    limit = next(Path(folder, place.limit) for place in groups if place.limit)
    used = next(Path(folder, place.usage) for place in groups if place.limit)
    roomy = {"kind": "program", "limits": Limits(memory=1 << 30).as_dict()}
    try:
        assert any(layer.startswith("cgroup") for layer in slot.layers)
        assert slot.run(roomy, b"print(42)", b"").stdout == b"42\n"
        assert 1 << 30 < int(limit.read_text()) < 3 << 29
        # below what the child may address: only the group can stop it now
        limit.write_text(str(int(used.read_text()) + (64 << 20)))
        grow = b"x = bytearray(400 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\nprint(42)"
        assert slot.run(roomy, grow, b"").ending == "memory_limit"
        assert slot.run(roomy, b"print(42)", b"").stdout == b"42\n"
    finally:
        slot.end()
    assert not any(Path(folder).exists() for folder in groups.values())


def test_two_trainers_use_different_uids(slot):
    if os.geteuid() != 0:
        pytest.skip("only root gives each slot a uid of its own")
    other = pool.Slot("bare")
    asked = [
        s.run({"kind": "program", "limits": LIMITS}, b"import os\nprint(os.getuid())", b"").stdout
        for s in (slot, other)
    ]
    other.end()
    assert asked[0] != asked[1] and b"0\n" not in asked


@pytest.mark.slow
def test_a_starved_candidate_is_our_failure():
    # Among twelve busy sessions on one core it is runnable and hardly runs.
    script = (
        "import os\nfrom verifiers.sandbox import pool\nfrom verifiers.sandbox.limits import Limits\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "slot = pool.Slot('bare')\nbusy = []\n"
        "for _ in range(12):\n"
        "    busy.append(os.fork())\n"
        "    if busy[-1] == 0:\n        os.setsid()\n        while True: pass\n"
        "limits = Limits(cpu_s=0.4, wall_s=0.4).as_dict()\n"
        "o = slot.run({'kind': 'program', 'limits': limits}, b'while True: pass', b'')\n"
        "for pid in busy: os.kill(pid, 9)\nprint(o.ending, o.cpu_ms < 400)\nslot.end()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["starved", "True"], (done.stdout, done.stderr)


def test_a_slot_that_cannot_be_set_up_says_why():
    with pytest.raises(
        pool.SlotFailed, match="a no_such_kind slot cannot be set up: KeyError: 'no_such_kind'"
    ):
        pool.Slot("no_such_kind")
