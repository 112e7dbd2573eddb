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


def _run(command: list[str], **options) -> list[str]:
    environment = {"PATH": os.defpath, "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, **options
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_every_attack_is_contained():
    _check(_run([sys.executable, "-B", "-m", "tests.attacks.run_all"]))
    assert not os.path.exists("/tmp/owned")


def _python_for_nobody() -> str | None:
    """An interpreter of our version that uid 65534 can run, with our packages."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        command = [candidate, "-c", "import pyseccomp, sympy, latex2sympy2_extended, tests.attacks"]
        try:
            _run(command, user=NOBODY, group=NOBODY, extra_groups=[])
        except (OSError, AssertionError):
            continue
        return candidate
    return None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become uid 65534")
def test_every_attack_is_contained_for_an_ordinary_user():
    python = _python_for_nobody()
    if python is None:
        pytest.skip("no interpreter with our packages that uid 65534 can read")
    rows = _check(
        _run([python, "-B", "-m", "tests.attacks.run_all"], user=NOBODY, group=NOBODY, extra_groups=[])
    )
    assert {row["uid"] for row in rows} == {NOBODY}
