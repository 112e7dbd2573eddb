"""The driver of a trainer's ranks with a stand-in for Ray, whose ranks are real ones in threads.

Ray itself: test_ray_placement.py.
"""

import logging
import os
import subprocess
import threading
import time
from concurrent import futures
from types import SimpleNamespace

import pytest

from reasoner import interrupt
from reasoner.cluster import rank as own
from reasoner.cluster import train as driver
from reasoner.cluster.host import HostActor, Seat
from reasoner.cluster.placing import Far, Placed
from reasoner.config import validate
from reasoner.engine.asking import ServerGone
from reasoner.folder import claimed, held_by
from reasoner.ledger import Ledger
from reasoner.registry import MachineFault, UserError
from reasoner.run_config import RunConfig
from reasoner.trainers.loop import Session


class RayError(Exception):
    pass


class ActorDiedError(RayError):
    pass


class ActorUnavailableError(RayError):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        super().__init__(f"a long traceback\nof {cause}")
        self.cause = cause


class GetTimeoutError(RayError):
    pass


class Actor:
    """Calls run in two threads; of one that is `dead` or `away` every answer is an error."""

    def __init__(self, thing, state: str = ""):
        self.thing, self.state, self.calls = thing, state, futures.ThreadPoolExecutor(2)

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *arguments: self.calls.submit(self._answer, name, arguments))

    def _answer(self, name, arguments):
        self._check()
        try:
            found = getattr(self.thing, name)(*arguments)
        except Exception as problem:
            raise RayTaskError(problem) from problem
        self._check()
        return found

    def _check(self):
        if self.state:
            raise {"dead": ActorDiedError, "away": ActorUnavailableError}[self.state]("no answer")


RAY = SimpleNamespace(
    exceptions=SimpleNamespace(
        RayError=RayError, ActorDiedError=ActorDiedError, ActorUnavailableError=ActorUnavailableError,
        RayTaskError=RayTaskError, GetTimeoutError=GetTimeoutError,
    ),
    get=lambda answer, timeout=None: answer.result(timeout),
    is_initialized=lambda: True,
)  # fmt: skip


def wait(answers, num_returns, timeout):
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        ready = [a for a in answers if a.done()]
        if len(ready) >= num_returns:
            return ready, []
        time.sleep(0.002)
    return [a for a in answers if a.done()], []


RAY.wait = wait


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """Ranks enter the run's folder and say which they are: here, in the process of all other tests."""
    monkeypatch.chdir(os.getcwd())
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Two ranks of a ppo stage that does what `run.do` is set to, and the driver's session."""
    monkeypatch.setattr(interrupt, "_state", interrupt._State(owner=os.getpid()))
    monkeypatch.setattr(driver, "TURN_S", 0.2)
    out = tmp_path / "out"
    config = validate(
        RunConfig,
        {"out": str(out), "min_isolation": "A", "problems": {"train": []}, "stages": [{"kind": "ppo", "model": "none"}]},
        "test",
    )  # fmt: skip
    found = SimpleNamespace(do=None, logged=[], told=[], ledger=Ledger(), began=[])
    monkeypatch.setitem(own.STAGES, "ppo", lambda stage, context: found.do(context))
    handlers = logging.getLogger("reasoner").handlers[:]
    with claimed(out):
        seat = Seat(str(tmp_path), out, held_by(out))
        # each is one of one, since both are threads of one process
        ranks = [own.Rank(own.Post(config, "ppo", seat, n, 1), lambda: "127.0.0.1") for n in range(2)]
        found.actors = [Actor(r) for r in ranks]
        found.group = SimpleNamespace(ranks=lambda: found.actors, hosts=lambda close: ["a host"])
        session = Session(
            out, found.ledger, lambda *m: found.logged.append(m), lambda *a: found.told.append(a)
        )
        with found.ledger.stage("ppo"):
            found.train = lambda: driver.train(RAY, found.group, "ppo", session)
            yield found
    logging.getLogger("reasoner").handlers[:] = handlers


def test_the_first_rank_speaks_and_the_costs_of_all_add_up(run):
    def do(context):
        session = context.session
        run.began.append(session.hosts(1))
        session.ledger.resume({"counts": {"ppo": {"policy": {"decoded": 7}}}}, 100.0)
        session.ledger.add("policy", decoded=5)
        session.progress(1, 2, "rounds")
        session.log({"loss": 0.5}, 1)

    run.do = do
    run.train()
    assert run.logged == [({"loss": 0.5}, 1)] and run.told == [(1, 2, "rounds")]
    assert sorted(run.began) == [[], ["a host"]]  # servers are the first one's
    assert run.ledger.counts == {"ppo": {"policy": {"decoded": 24}}} and run.ledger.processes == {"ppo": 2}
    assert run.ledger.seconds["ppo"] == 100.0  # to which the driver's own seconds come at the end


def test_what_a_rank_has_spent_is_seen_while_it_works(run):
    seen = threading.Event()

    def do(context):
        context.session.ledger.add("policy", decoded=3)
        context.session.progress(1, 2, "rounds")
        assert seen.wait(20)

    run.do = do
    training = threading.Thread(target=run.train)
    training.start()
    until = time.monotonic() + 20
    while run.ledger.counts.get("ppo", {}).get("policy", {}).get("decoded") != 6:
        assert time.monotonic() < until
        time.sleep(0.01)
    seen.set()
    training.join()


def test_news_come_at_once_and_none_after_some_time(run):
    end = threading.Event()

    def do(context):
        context.session.log({"loss": 0.5}, 1)
        assert end.wait(20)

    run.do = do
    rank = run.actors[0].thing
    begun = time.monotonic()
    rank.begin(("", 0), [])
    news = rank.turn(60)
    assert news.told == [("log", ({"loss": 0.5}, 1))] and not news.ended
    assert rank.turn(0.1).told == []
    end.set()
    assert rank.turn(60).ended and time.monotonic() - begun < 30


@pytest.mark.parametrize("fault", [UserError("no such model"), MachineFault("a bit flipped")])
def test_a_users_fault_and_a_machines_come_as_they_are(run, fault):
    def do(context):
        raise fault

    run.do = do
    with pytest.raises(type(fault), match=f"^{fault}$"):
        run.train()


def test_another_failure_is_a_lost_rank(run):
    def do(context):
        raise MemoryError("80 GB are full\nand more")

    run.do = do
    with pytest.raises(
        MachineFault, match=r"^rank [01] of ppo is lost .*MemoryError: 80 GB are full\); .*goes on from"
    ):
        run.train()


def test_a_rank_that_is_gone_is_named_before_what_the_others_say_of_it(run):
    def do(context):
        time.sleep(0.1)
        run.actors[1].state = "dead"
        raise UserError("another process of this run has ended")

    run.actors[1].thing.begin = lambda *_: None  # the stage of this one never ends
    run.do = do
    with pytest.raises(MachineFault, match=r"^rank 1 of ppo is lost \(ActorDiedError: no answer\)"):
        run.train()


def test_who_stops_the_driver_stops_the_ranks(run, monkeypatch):
    asked = []
    monkeypatch.setattr(interrupt, "ask", asked.append)

    def do(context):
        interrupt._state.asked = 15
        until = time.monotonic() + 10
        while len(asked) < 2:
            assert time.monotonic() < until
            time.sleep(0.01)
        raise interrupt.Stopped(15)

    run.do = do
    with pytest.raises(interrupt.Stopped) as stop:
        run.train()
    assert asked == [15, 15] and stop.value.number == 15


def test_a_rank_is_asked_once_and_keeps_the_first_signal(monkeypatch):
    monkeypatch.setattr(interrupt, "_state", interrupt._State())
    interrupt.ask(15)
    interrupt.ask(10)
    assert interrupt.stop_asked() == 15


def test_warnings_of_the_first_rank_are_forwarded():
    told = []
    handler = own._Forwarding(lambda *words: told.append(words))
    records = [logging.LogRecord("reasoner.x", level, "", 0, "%d left", (3,), None) for level in (20, 30)]
    logging.getLogger("reasoner.x").addHandler(handler)
    try:
        for record in records:
            logging.getLogger("reasoner.x").handle(record)
    finally:
        logging.getLogger("reasoner.x").removeHandler(handler)
    assert told == [("warn", ("3 left",))]


def test_ranks_are_announced_as_launchers_do():
    assert own.announced(("10.0.0.3", 4711), 1, 4) == {
        "MASTER_ADDR": "10.0.0.3", "MASTER_PORT": "4711", "RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
    }  # fmt: skip


@pytest.fixture
def host(tmp_path):
    """A host on a machine that is this one, and the actors that it had."""
    made = []

    def make():
        made.append(
            Actor(
                HostActor(
                    Seat(str(tmp_path), tmp_path / "out", held_by(tmp_path / "out")), lambda: "127.0.0.1"
                )
            )
        )
        return made[-1]

    with claimed(tmp_path / "out"):
        yield Placed(RAY, make, 2, lambda: None), made


def test_a_process_elsewhere_is_as_one_here(host, tmp_path):
    placed, _ = host
    assert placed.reach() == "127.0.0.1" and placed.gpus == 2 and 0 < placed.free_port() < 65536
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        placed.start(["no-such-program"], {}, tmp_path / "log")
    words = ["sh", "-c", "echo $MARK; exec sleep 600"]
    process = placed.start(words, {"MARK": "marked"}, tmp_path / "log")
    assert process.args == words and process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired, match="600"):
        process.wait(0.3)
    placed.terminate(process)
    assert process.wait(20) == -15 and (tmp_path / "log").read_text() == "marked\n"
    other = placed.start(words, {"MARK": "again"}, tmp_path / "log")
    placed.reap(other)
    assert other.poll() == -9 and not os.path.exists(f"/proc/{other.pid}")


def test_an_actor_that_died_took_its_server_along_and_is_started_anew(host, tmp_path):
    placed, made = host
    placed.reach()
    process = placed.start(["sleep", "600"], {}, tmp_path / "log")
    try:
        made[0].state = "away"  # for a moment: nobody knows
        assert process.poll() is None and Far(RAY, made[0], process.pid, []).poll() is None
        with pytest.raises(ServerGone, match=r"ActorUnavailableError.*see ray status"):
            placed.reach()
        assert len(made) == 1
        made[0].state = "dead"
        assert process.poll() == -9
        placed.reap(process)  # of no use, and no error
        assert placed.reach() == "127.0.0.1" and len(made) == 2
    finally:
        made[0].state = ""
        made[0].thing.reap()
