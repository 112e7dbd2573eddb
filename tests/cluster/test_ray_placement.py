"""Ray itself on this machine: on-policy training whose servers and ranks stand in a placement group, and what is killed of it.

The servers are a stand-in for vLLM; a second driver, which is this process, looks at the cluster while a run works in it.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from safetensors.torch import load_file

from reasoner.cluster import placing
from reasoner.config import read_yaml, validate
from reasoner.folder import claimed
from reasoner.ledger import Ledger
from reasoner.registry import UserError
from reasoner.run_config import RunConfig
from reasoner.store import is_done
from reasoner.trainers.loop import Session
from tests.cluster.test_ray import answers, environment, finish, start, wait_for

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'reasoner[ray]')")
pytestmark = pytest.mark.slow  # each run starts Ray's workers and servers, which load torch

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / "tests" / "engine" / "stand_in.py"
CPUS, GPUS = 4, 3  # the latter are numbers that Ray hands out: there are none here
ROUNDS = 4
SMALL = "ray={servers: {cpus: 1, gpus: 0}}"


@pytest.fixture(scope="module")
def cluster():
    """The address of a cluster of one machine, which this process is connected to as well."""
    with socket.socket() as free, tempfile.TemporaryDirectory(prefix="ray") as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        head = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--port", str(port), "--num-cpus", str(CPUS),
             "--num-gpus", str(GPUS),
             "--block", "--include-dashboard", "false", "--object-store-memory", str(100 * 2**20), "--temp-dir", folder],
            env=environment(), stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_for(lambda: answers(port), head, 90)
            handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
            before = os.environ.get("RAY_AUTH_MODE")
            os.environ["RAY_AUTH_MODE"] = "disabled"
            wait_for(lambda: connects(f"127.0.0.1:{port}"), head, 240)
            try:
                yield f"127.0.0.1:{port}"
            finally:
                ray.shutdown()
                if before is None:
                    del os.environ["RAY_AUTH_MODE"]
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        finally:
            head.send_signal(signal.SIGTERM)
            head.wait(60)


def connects(address: str) -> bool:
    """The head answers before its machine is one of the cluster's."""
    try:
        ray.init(address=address, log_to_driver=False)
    except ConnectionError:
        return False
    return True


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("placement")
    program = folder / "vllm"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {STAND_IN} "$@"\n')
    program.chmod(0o755)
    raw = read_yaml(ROOT / "configs" / "smoke" / "ppo.yaml")
    raw["stages"][1] |= {
        "rounds": ROUNDS, "tree": {"where": "every_step"}, "save_every": 1,
        "engine": {"kind": "vllm", "spawn": 2, "executable": str(program)},
    }  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(raw))
    return folder / "run.yaml"


@pytest.fixture(scope="module")
def here(config) -> Path:
    """The run whose servers this machine started by itself."""
    finish(config, config.parent / "here")
    return config.parent / "here"


def groups(out: Path) -> dict[str, str]:
    """The placement groups of a run's stage, by their number, with their state."""
    table = ray.util.placement_group_table().values()
    return {
        g["placement_group_id"]: g["state"] for g in table if g["name"].startswith(f"reasoner {out.name} ")
    }


def commands() -> dict[int, tuple[int, str]]:
    """Parent and command of each process."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            if status[0] != "Z":
                found[int(folder.name)] = (int(status[1]), words)
        except (OSError, ValueError):
            continue
    return found


def placed(out: Path) -> dict[int, int]:
    """The servers of a run that are children of actors, by process number, with the actors'."""
    every = commands()
    return {
        pid: parent
        for pid, (parent, words) in every.items()
        if str(STAND_IN) in words and f"{out}/" in words and every.get(parent, (0, ""))[1].startswith("ray::HostActor")
    }  # fmt: skip


def ranks() -> list[int]:
    return [pid for pid, (_, words) in commands().items() if words.startswith("ray::Rank")]


def gone(pids, seconds: float = 60) -> bool:
    until = time.monotonic() + seconds
    while set(pids) & commands().keys() and time.monotonic() < until:
        time.sleep(0.1)
    return not set(pids) & commands().keys()


def said(out: Path) -> str:
    return out.with_name(f"{out.name}.said").read_text()


def renamed(name: str) -> str:
    """An override that calls the stage as the run's folder, by which its placement group is told from others."""
    return f"stages.1.name={name}"


def same_training(one: Path, other: Path, name: str, most: float = 1e-5) -> None:
    """The same weights, which have moved, and the same metrics of each round."""
    a = load_file(one / "models/ppo/model/model.safetensors")
    b = load_file(other / "models" / name / "model/model.safetensors")
    start = load_file(one / "models/base/model/model.safetensors")
    assert max(float((a[k] - start[k]).abs().max()) for k in a) > 1e-4
    assert max(float((a[k] - b[k]).abs().max()) for k in a) < most
    rows = [
        [m for m in map(json.loads, (run / "stages" / stage / "metrics.jsonl").read_text().splitlines()) if "ppo/length" in m]
        for run, stage in ((one, "ppo"), (other, name))
    ]  # fmt: skip
    assert len(rows[0]) == len(rows[1]) == ROUNDS
    for x, y in zip(*rows, strict=True):
        assert x["ppo/length"] == y["ppo/length"] and x["ppo/reward"] == pytest.approx(y["ppo/reward"], abs=1e-5)  # fmt: skip
    ledgers = [Ledger.load(run / "ledger.json").counts[stage] for run, stage in ((one, "ppo"), (other, name))]
    for counter in ("decoded", "trained", "trajectories_generated"):
        assert ledgers[0]["policy"][counter] == ledgers[1]["policy"][counter] > 0, counter


def test_servers_stand_in_a_group_and_train_as_those_that_are_started_here(cluster, config, here):
    """One of them is killed, and then the actor of the other: both are there again, and after the run nothing is."""
    out = config.parent / "placed"
    run = start(config, out, SMALL, renamed("placed"), "--ray", cluster)
    wait_for(lambda: len(placed(out)) == 2, run)
    (group,) = groups(out)
    assert groups(out)[group] == "CREATED"
    bundles = ray.util.placement_group_table()[group]["bundles"]
    assert sorted(bundles.values(), key=str) == [{"CPU": 1.0}, {"CPU": 1.0}]
    assert ray.util.placement_group_table()[group]["strategy"] == "SPREAD"
    first = placed(out)
    assert len(set(first.values())) == 2  # each has an actor of its own
    address = ray.util.get_node_ip_address()
    assert all(f"--host {address} " in commands()[pid][1] for pid in first)
    wait_for(lambda: f"1/{ROUNDS} rounds" in said(out), run)
    one, other = first
    os.kill(one, signal.SIGKILL)
    os.kill(first[other], signal.SIGKILL)
    assert gone([one, other])
    seen = set(first)
    wait_for(lambda: seen.update(placed(out)) or len(seen) == 4 or is_done(out / "stages/placed"), run)
    assert run.wait(300) == 0, said(out)[-3000:]
    assert len(seen) == 4 and "it is started again" in said(out)
    same_training(here, out, "placed")
    assert groups(out)[group] == "REMOVED" and gone(seen)
    logs = sorted((out / "models/placed/engine/servers").iterdir())
    assert [p.name for p in logs] == ["server-0.log", "server-1.log"]
    assert all(p.read_text().count("ready") == 2 for p in logs)


def test_ranks_in_the_group_train_as_one_process(cluster, config, here):
    """They are stopped, one is lost, and the same command goes on."""
    out, pools = (
        config.parent / "ranks",
        "ray={ppo: {workers: 2, cpus: 1, gpus: 0}, servers: {cpus: 1, gpus: 0}}",
    )
    arguments = (config, out, pools, renamed("ranks"), "--ray", cluster)
    run = start(*arguments)
    wait_for(lambda: f"1/{ROUNDS} rounds" in said(out), run, 240)
    (group,) = groups(out)
    assert len(ray.util.placement_group_table()[group]["bundles"]) == 4
    mine, servers = ranks(), placed(out)
    assert len(mine) == 2 and len(servers) == 2
    run.send_signal(signal.SIGTERM)
    assert run.wait(120) == 75, said(out)[-3000:]
    assert gone([*mine, *servers]) and groups(out)[group] == "REMOVED"
    assert not is_done(out / "stages/ranks") and "the same command goes on" in said(out)

    run = start(*arguments)
    wait_for(lambda: len(ranks()) == 2 and len(placed(out)) == 2, run, 240)
    mine, servers = ranks(), placed(out)
    os.kill(mine[1], signal.SIGKILL)
    assert run.wait(120) == 3, said(out)[-3000:]
    assert "of ranks is lost (ActorDiedError" in said(out) and "the same command goes on" in said(out)
    assert gone([*mine, *servers]) and set(groups(out).values()) == {"REMOVED"}

    finish(*arguments)
    same_training(here, out, "ranks")
    assert is_done(out / "stages/ranks")["processes"] == 2
    assert "by 2 ranks of the cluster" in said(out)


def test_a_killed_driver_leaves_no_server_and_no_group(cluster, config):
    out = config.parent / "killed"
    run = start(config, out, SMALL, renamed("killed"), "--ray", cluster)
    wait_for(lambda: len(placed(out)) == 2, run)
    servers = placed(out)
    run.kill()
    run.wait()
    assert gone([*servers, *servers.values()])
    until = time.monotonic() + 60
    while set(groups(out).values()) != {"REMOVED"}:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_too_little_is_refused_before_the_first_stage(cluster, config):
    out = config.parent / "less"
    run = start(config, out, "ray={servers: {cpus: 3, gpus: 0}}", renamed("less"), "--ray", cluster)
    assert run.wait(120) == 2
    assert (
        "less asks for 2 servers of 3 CPUs and 0 GPUs, and the machines of the cluster do not have that at once "
        "(4 CPUs and 3 GPUs); expected room for all: lower engine.spawn of less, or set ray.servers.cpus" in said(out)
    )  # fmt: skip
    assert groups(out) == {} and not (out / "stages").exists()


def test_room_that_others_have_is_waited_for_and_then_refused(cluster, config, tmp_path, monkeypatch):
    monkeypatch.setattr(placing, "ROOM_S", 3.0)
    monkeypatch.setattr(placing, "LOOK_S", 0.5)
    raw = read_yaml(config)
    raw["stages"][1]["name"] = tmp_path.name
    raw["ray"] = {"servers": {"cpus": 2, "gpus": 0}}
    run = validate(RunConfig, {**raw, "out": str(tmp_path / "run")}, "test")
    others = ray.util.placement_group([{"CPU": CPUS - 1}])
    assert others.wait(30)
    notes = []
    session = Session(tmp_path, Ledger(), progress=lambda done, total, note: notes.append(note))

    def place():
        return placing.place(ray, False, run, run.stages[1], session, 0, 2)

    with claimed(tmp_path / "run"):
        with pytest.raises(
            UserError, match=r"others have what the cluster has \(4 CPUs.*free: 1 CPUs.*wait for them"
        ):
            place()
        session.ending.close()
        assert "waiting for room for 2 servers of 2 CPUs and 0 GPUs" in notes
        ray.util.remove_placement_group(others)
        group = place()
        (host, _) = group.hosts(group.close)
        assert host.reach() == ray.util.get_node_ip_address()
        group.close()
        place()  # as the next policy of an evaluation
        session.ending.close()
    states = groups(SimpleNamespace(name=tmp_path.name)).values()
    assert list(states) == ["REMOVED"] * 3


def test_a_machine_that_does_not_see_the_folder_is_named(cluster, config, tmp_path):
    raw = read_yaml(config)
    run = validate(RunConfig, {**raw, "out": str(tmp_path / "run")}, "test")
    session = Session(tmp_path, Ledger())
    with claimed(tmp_path / "run"):
        group = placing.place(ray, False, run, run.stages[1], session, 0, 1)
    (host,) = group.hosts(group.close)
    with pytest.raises(
        UserError, match=rf"{tmp_path}/run on {socket.gethostname()} is not the folder .*all machines share"
    ):
        host.reach()
    session.ending.close()


def test_each_server_sees_gpus_of_its_own(cluster, config, tmp_path):
    raw = {**read_yaml(config), "ray": {"ppo": {"workers": 1, "cpus": 1}, "servers": {"cpus": 1, "gpus": 1}}}
    run = validate(RunConfig, {**raw, "out": str(tmp_path / "run")}, "test")
    session = Session(tmp_path, Ledger())
    with claimed(tmp_path / "run"):
        group = placing.place(ray, False, run, run.stages[1], session, 1, 2)
        assert group.bundles.strategy == "PACK"
        hosts, seen = group.hosts(group.close), []
        for number, host in enumerate(hosts):
            log = tmp_path / f"{number}.log"
            host.reach()
            process = host.start(["sh", "-c", "echo $CUDA_VISIBLE_DEVICES"], {}, log)
            assert process.wait(30) == 0 and host.gpus == 1
            seen.append(log.read_text().strip())
        (rank,) = group.ranks()
        assert ray.get(rank.meet.remote())[0] == ray.util.get_node_ip_address()
        assert ray.available_resources().get("GPU", 0) == 0  # the third is the rank's
    assert len(set(seen)) == 2 and set(seen) < {"0", "1", "2"}
    session.ending.close()


def test_a_server_whose_machine_is_lost_stands_on_another(cluster, config, tmp_path):
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        second = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--address", cluster, "--num-cpus", "2", "--block",
             "--object-store-memory", str(100 * 2**20), "--temp-dir", folder],
            env=environment(), stdout=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        wait_for(lambda: ray.cluster_resources()["CPU"] == CPUS + 2, second)
        raw = {**read_yaml(config), "ray": {"servers": {"cpus": 2, "gpus": 0}}}
        run = validate(RunConfig, {**raw, "out": str(tmp_path / "run")}, "test")
        session = Session(tmp_path, Ledger())
        with claimed(tmp_path / "run"):
            group = placing.place(ray, False, run, run.stages[1], session, 0, 2)
            hosts = group.hosts(group.close)
            processes = []
            for number, host in enumerate(hosts):
                host.reach()
                processes.append(host.start(["sleep", "600"], {}, tmp_path / f"{number}.log"))
            every = commands()
            (lost,) = [
                n for n, p in enumerate(processes) if is_under(second.pid, p.pid, every)
            ]  # they are spread
            os.killpg(second.pid, signal.SIGKILL)
            second.wait()
            assert gone([processes[lost].pid])
            assert processes[lost].wait(120) == placing.LOST and processes[1 - lost].poll() is None
            address = hosts[lost].reach()
            again = hosts[lost].start(["sleep", "600"], {}, tmp_path / "again.log")
            assert address == ray.util.get_node_ip_address() and again.poll() is None
            assert ray.cluster_resources()["CPU"] == CPUS
        session.ending.close()
        assert gone([again.pid, processes[1 - lost].pid])


def is_under(ancestor: int, pid: int, every: dict[int, tuple[int, str]]) -> bool:
    while pid in every and pid != ancestor:
        pid = every[pid][0]
    return pid == ancestor
