"""Every named attack, as root (or whoever runs the tests) and as uid 65534: contained, with the
verdict expected, and the slot fit for the next run."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
AS_NOBODY = {"user": NOBODY, "group": NOBODY, "extra_groups": []}


def _check(lines: list[str], tier: str = "A") -> list[dict]:
    rows = [json.loads(line) for line in lines]
    assert len(rows) >= 200
    assert len({row["name"] for row in rows}) == len(rows)
    for row in rows:
        assert row["status"] == "incorrect", row
        assert row["expected"] is None or row["reason"] in row["expected"], row
        assert row["next_run"] == "correct" and row["slot_alive"], row
        assert row["isolation"] in (tier, "none"), row
    return rows


def _start(command: list[str], **options) -> subprocess.Popen:
    environment = {"PATH": os.defpath, "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes, **options)


def _end(process: subprocess.Popen) -> list[str]:
    out, problem = process.communicate(timeout=300)
    assert process.returncode == 0, problem[-2000:]
    return out.splitlines()


@pytest.fixture(scope="module")
def running():
    """The attacks of both users, at once: each mostly waits. None where there is no such user or interpreter."""
    attacks = ["-B", "-m", "tests.attacks.run_all"]
    python = _python_for_nobody() if os.geteuid() == 0 else None
    processes = {
        "ours": _start([sys.executable, *attacks]),
        "ordinary": _start([python, *attacks], **AS_NOBODY) if python else None,
    }
    yield processes
    for process in filter(None, processes.values()):
        process.kill()
        process.communicate()


def test_every_attack_is_contained(running):
    _check(_end(running["ours"]))
    assert not os.path.exists("/tmp/owned")


def _python_for_nobody() -> str | None:
    """An interpreter of our version that uid 65534 can run, with our packages."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        command = [candidate, "-c", "import pyseccomp, sympy, latex2sympy2_extended, tests.attacks"]
        try:
            _end(_start(command, **AS_NOBODY))
        except (OSError, AssertionError):
            continue
        return candidate
    return None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become uid 65534")
def test_every_attack_is_contained_for_an_ordinary_user(running):
    if running["ordinary"] is None:
        pytest.skip("no interpreter with our packages that uid 65534 can read")
    rows = _check(_end(running["ordinary"]))
    assert {row["uid"] for row in rows} == {NOBODY}
