"""Servers that a run starts: real processes, there while it runs and gone after any end of it."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from small_models import save_small_qwen

from reasoner.engine import servers, sglang
from reasoner.engine.dialect import Call
from reasoner.engine.vllm import DIALECT
from reasoner.registry import UserError

STAND_IN = str(Path(__file__).with_name("stand_in.py"))


def command(model, port, *_):
    return [sys.executable, STAND_IN, "serve", model, "--port", str(port)], {}


SMALL = replace(DIALECT, command=command)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save_small_qwen(tmp_path_factory.mktemp("model"), ["one two three\n"] * 4, 280))


def is_alive(pid: int) -> bool:
    return servers.started_at(pid) is not None


def gone_within(pid: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.1)
    return not is_alive(pid)


@pytest.mark.parametrize(("rank", "room"), [(1, 1), (2, 8), (4, 8), (16, 16), (17, 32), (512, 512)])
def test_a_server_makes_room_for_an_adapter_of_any_rank(rank, room):
    arguments, _ = DIALECT.command("model", 1, 64, "float32", "raw", rank, "vllm", "127.0.0.1", 0)
    assert arguments[arguments.index("--max-lora-rank") + 1] == str(room)


def test_an_adapter_that_no_server_takes():
    with pytest.raises(
        UserError, match=r"^lora\.r is 513, and vLLM serves adapters of rank 512 at most; lower lora\.r$"
    ):
        DIALECT.command("model", 1, 64, "float32", "raw", 513, "vllm", "127.0.0.1", 0)


def test_servers_answer_and_end_with_the_fleet(model, tmp_path):
    notes = []
    fleet = servers.start(SMALL, model, 2, tmp_path, 128, progress=notes.append)
    pids = [p.pid for p in fleet.processes]
    assert len(set(fleet.urls)) == 2 and all(map(is_alive, pids))
    assert all(httpx.get(f"{url}/health").status_code == 200 for url in fleet.urls)
    assert "2 of 2 vllm servers are starting" in notes[0]
    assert len(list(tmp_path.glob("server-*.log"))) == 2
    fleet.close()
    assert not any(map(is_alive, pids))
    assert list(tmp_path.glob("*.json")) == []


def test_a_killed_run_leaves_no_server(model, tmp_path):
    run = textwrap.dedent(
        f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_servers import SMALL, servers
        from pathlib import Path
        fleet = servers.start(SMALL, {model!r}, 1, Path({str(tmp_path)!r}), 128)
        print(fleet.processes[0].pid, flush=True)
        time.sleep(600)
        """
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    parent = subprocess.Popen([sys.executable, "-c", run], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert is_alive(pid)
    parent.kill()
    parent.wait()
    assert gone_within(pid, 30)


def test_a_server_that_dies_is_started_again_so_many_times(tmp_path):
    """Whichever thread asks, at its address, with what is to be served by then."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    tiny = replace(
        DIALECT,
        command=lambda model, port, *_: (
            [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", model], {}
        ),
        health=Call("/", method="GET"),
    )  # fmt: skip
    folder = tmp_path / "servers"
    fleet = servers.start(tiny, str(tmp_path / "first"), 1, folder, 128, restarts=1)
    (url,), (first,) = fleet.urls, fleet.processes
    assert not fleet.revive(0) and fleet.processes == [first]  # it lives
    fleet.model = str(tmp_path / "second")
    first.kill()
    first.wait()
    said = []
    asking = threading.Thread(target=lambda: said.append(fleet.revive(0)))
    asking.start()
    asking.join()
    (second,) = fleet.processes
    assert said == [True] and second.pid != first.pid and fleet.model in second.args
    assert not gone_within(second.pid, 0.5)  # though the thread that asked for it has ended
    assert httpx.get(url).status_code == 200
    assert [p.name for p in folder.glob("*.json")] == [f"{second.pid}.json"]
    second.kill()
    second.wait()
    with pytest.raises(UserError, match=r"ended with -9, .* no more times.*engine\.restarts= gives it more"):
        fleet.revive(0)
    fleet.close()
    assert not fleet.revive(0)


@pytest.mark.parametrize("dialect", [DIALECT, sglang.DIALECT], ids=["vllm", "sglang"])
def test_a_server_is_told_where_to_listen_and_its_gpus(dialect):
    def words(gpus: int) -> str:
        return " ".join(dialect.command("model", 8001, 512, "auto", "raw", 0, "program", "10.0.0.3", gpus)[0])

    assert "--host 10.0.0.3 --port 8001" in words(1)
    assert "--tensor-parallel-size 4" in words(4)
    assert "--tensor-parallel-size" not in words(1) and "--tensor-parallel-size" not in words(0)
    assert ("--no-enable-chunked-prefill" in words(0)) == (dialect is DIALECT)
    assert "--no-enable-chunked-prefill" not in words(1)


class Moving(servers.Here):
    """A host whose machine is lost with its first server: the next one listens elsewhere."""

    def reap(self, process):
        super().reap(process)
        self.address = "127.0.0.2"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")
def test_servers_stand_on_the_hosts_that_are_given_and_one_that_is_lost_has_another_address(model, tmp_path):
    told = []

    def where(served, port, max_context, dtype, logprobs, lora_rank, executable, address, gpus):
        told.append((address, gpus))
        return [*command(served, port)[0], "--host", address], {}

    hosts = [Moving(0, tmp_path), Moving(2, tmp_path, "127.0.0.3")]
    fleet = servers.start(
        replace(DIALECT, command=where), model, 2, tmp_path, 128, restarts=1, patience=90,
        hosts=lambda number: hosts[:number],
    )  # fmt: skip
    assert told == [("127.0.0.1", 0), ("127.0.0.3", 2)]
    before = fleet.urls[:]
    assert before[1].startswith("http://127.0.0.3:")
    fleet.processes[0].kill()
    fleet.processes[0].wait()
    assert fleet.revive(0) and told[2:] == [("127.0.0.2", 0)]
    assert fleet.urls[0].startswith("http://127.0.0.2:") and fleet.urls[1] == before[1]
    assert all(httpx.get(f"{url}/health").status_code == 200 for url in fleet.urls)
    pids = [p.pid for p in fleet.processes]
    assert all(map(is_alive, pids))
    fleet.close()
    assert not any(map(is_alive, pids)) and list(tmp_path.glob("*.json")) == []


def test_what_an_earlier_run_left_is_ended_and_a_process_of_the_same_number_is_not(tmp_path):
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    another = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    for process, shift in ((left, 0), (another, 1)):
        record = {"pid": process.pid, "started": servers.started_at(process.pid) + shift, "command": []}
        servers.write_json(tmp_path / f"{process.pid}.json", record)
    assert servers.end_leftovers(tmp_path) == [left.pid]
    assert left.wait(timeout=10) == -signal.SIGTERM
    assert another.poll() is None
    another.kill()
    another.wait()


@pytest.mark.parametrize(
    "torn", ['{"pid": 12', "[]", '{"pid": 12}', '{"pid": null, "started": 3}', "\x00\x17"]
)
def test_a_torn_record_of_a_server_stops_no_run_and_ends_no_process(tmp_path, torn, caplog):
    record = tmp_path / f"{os.getpid()}.json"
    record.write_text(torn)
    assert servers.end_leftovers(tmp_path) == []
    assert not record.exists()
    assert "is torn" in caplog.text and record.name in caplog.text


def test_a_server_that_dies_at_its_start_is_named_with_its_last_words(tmp_path):
    dying = replace(
        DIALECT, command=lambda *_: ([sys.executable, "-c", "raise SystemExit('no memory here')"], {})
    )
    with pytest.raises(UserError, match=r"ended with 1 after .*no memory here"):
        servers.start(dying, "model", 1, tmp_path, 128)
    absent = replace(DIALECT, command=lambda *_: (["no-such-program", "serve"], {}))
    with pytest.raises(
        UserError, match=r"cannot start no-such-program .*engine\.executable.*no-such-program serve"
    ):
        servers.start(absent, "model", 1, tmp_path, 128)
