"""Ray itself on this machine: two workers leave what one process leaves, and what is killed costs time and nothing else."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from reasoner.interrupt import TRY_AGAIN
from reasoner.ledger import Ledger
from reasoner.store import is_done
from tests.stages.test_data_on_processes import CONFIG, START, differ, same_files

pytest.importorskip("ray", reason="Ray is not installed (pip install 'reasoner[ray]')")
pytestmark = pytest.mark.slow  # each start of Ray and of a stage's workers takes some ten seconds

ROOT = Path(__file__).parent.parent.parent
STAGES = ("rollout", "verify", "complete", "label")
POOLS = "ray: {rollout: {workers: 2, cpus: 1}, verify: {workers: 2, cpus: 1}, complete: {workers: 1}, label: {workers: 2}}\n"


def environment(mark: str = "") -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "REASONER_TEST": mark,
    }  # fmt: skip


def start(config: Path, out: Path, *options: str, mark: str = "") -> subprocess.Popen:
    said = out.with_name(f"{out.name}.said").open("a")
    command = [sys.executable, "-m", "reasoner", "run", str(config), f"out={out}", *options]
    return subprocess.Popen(command, cwd=out.parent, env=environment(mark), stdout=said, stderr=said)


def finish(*arguments, **more) -> None:
    process = start(*arguments, **more)
    out = arguments[1]
    assert process.wait(900) == 0, out.with_name(f"{out.name}.said").read_text()[-3000:]


def workers(mark: str) -> list[int]:
    """The processes of workers that came of a start with this mark."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if f"REASONER_TEST={mark}".encode() in (folder / "environ").read_bytes() and (
                folder / "cmdline"
            ).read_bytes().startswith(b"ray::Worker"):
                found.append(int(folder.name))
        except (OSError, ValueError):
            continue
    return found


def wait_for(seen, process: subprocess.Popen, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def marks(out: Path, stage: str) -> int:
    return len(list((out / "stages" / stage / "parts").glob("*.json")))


def logged(out: Path, stage: str) -> dict:
    lines = (out / "stages" / stage / "metrics.jsonl").read_text().splitlines()
    return {name: value for line in lines for name, value in json.loads(line).items()}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    (folder / "start.yaml").write_text(CONFIG[: CONFIG.index("stages:")] + START)
    finish(folder / "start.yaml", folder / "start")
    text = POOLS + CONFIG[: CONFIG.index("  - {kind: prm")]
    for stage in ("base", "sft"):
        text = text.replace(stage.upper(), str(folder / "start/models" / stage / "model"))
    (folder / "data.yaml").write_text(text)
    return folder / "data.yaml"


@pytest.fixture(scope="module")
def one(config) -> Path:
    finish(config, config.parent / "one")
    return config.parent / "one"


def test_workers_write_the_files_of_one_process(config, one):
    out = config.parent / "two"
    finish(config, out, "--ray", "local")
    same_files(one, out)
    a, b = (Ledger.load(run / "ledger.json") for run in (one, out))
    for stage, model, counter in [
        ("rollout", "policy", "decoded"), ("rollout", "policy", "trajectories_generated"),
        ("rollout", "verifier", "verifications"), ("complete", "policy", "decoded"),
        ("label", "policy", "trajectories_kept"),
    ]:  # fmt: skip
        assert a.counts[stage][model][counter] == b.counts[stage][model][counter] > 0, (stage, counter)
    for stage, num in zip(STAGES, (2, 2, 1, 2), strict=True):
        alone, pooled = logged(one, stage), logged(out, stage)
        assert pooled["ray/workers"] == num == is_done(out / "stages" / stage)["processes"], stage
        assert pooled["ray/lost"] == 0 and 0 < pooled["ray/busy"] <= 1
        for row in (alone, pooled):
            for name in [n for n in row if n.startswith("ray/") or n in ("time", "rollout/verdict_wait")]:
                del row[name]
        assert not differ(alone, pooled)
        assert sorted(p.name for p in (out / "stages" / stage).iterdir()) == ["basis.json", "done", "metrics.jsonl"]  # fmt: skip


def test_killed_workers_and_a_killed_driver_cost_nothing_but_time(config, one):
    """A worker by SIGKILL, then the driver, asked to and by SIGKILL, whose workers end as well; the same command goes on. A
    second driver is refused."""
    out, mark = config.parent / "killed", f"{os.getpid()}-killed"
    text = re.sub(
        "num_slots: 16", "num_slots: 4", config.read_text(), count=1
    )  # slower, so that there is a middle
    (config.parent / "slow.yaml").write_text(text)
    process = start(config.parent / "slow.yaml", out, "--ray", "local", mark=mark)
    wait_for(lambda: marks(out, "rollout") >= 3 and len(workers(mark)) == 2, process)
    os.kill(workers(mark)[0], signal.SIGKILL)
    second = start(config.parent / "slow.yaml", out, mark="second")
    assert second.wait(300) == 2 and "is in use by process" in out.with_name("killed.said").read_text()
    at = marks(out, "rollout")
    wait_for(lambda: marks(out, "rollout") > at or is_done(out / "stages/rollout"), process)
    assert "is lost" in out.with_name("killed.said").read_text()
    process.send_signal(signal.SIGTERM)
    assert process.wait(300) == TRY_AGAIN
    said = out.with_name("killed.said").read_text()
    assert "stopped by SIGTERM; the same command goes on" in said and "Traceback" not in said
    process = start(config.parent / "slow.yaml", out, "--ray", "local", mark=mark)
    wait_for(lambda: len(workers(mark)) == 2, process)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while workers(mark):
        assert time.monotonic() < deadline, "workers outlive their driver"
        time.sleep(0.1)
    finish(config.parent / "slow.yaml", out, "--ray", "local", mark=mark)
    same_files(one, out)


def test_a_cluster_that_is_there_is_joined_by_its_address(config, one, tmp_path):
    """`ray start`, and what its one machine does not have is one line."""
    with socket.socket() as free, tempfile.TemporaryDirectory(prefix="ray") as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        head = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--port", str(port), "--num-cpus", "2", "--block",
             "--include-dashboard", "false", "--object-store-memory", str(100 * 2**20), "--temp-dir", folder],
            env=environment(), stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_for(lambda: answers(port), head, 90)
            out = config.parent / "joined"
            finish(config, out, "--ray", f"127.0.0.1:{port}")
            same_files(one, out)
            many = start(config, tmp_path / "many", "ray.rollout={cpus: 9}", "--ray", f"127.0.0.1:{port}")
            assert many.wait(300) == 2
            said = (tmp_path / "many.said").read_text()
            assert (
                "takes 9 CPUs and 0 GPUs and no machine of the cluster has them (2 CPUs and 0 GPUs)" in said
            )
        finally:
            head.send_signal(signal.SIGTERM)
            head.wait(60)


def answers(port: int) -> bool:
    with socket.socket() as asks:
        return asks.connect_ex(("127.0.0.1", port)) == 0
