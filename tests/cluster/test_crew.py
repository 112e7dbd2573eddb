"""The driver with a stand-in for Ray, whose workers are real ones in threads: parts, losses, failures, and what it tells.

Ray itself: test_ray.py.
"""

import queue
import signal
import socket
import sys
import threading
import time
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from reasoner import interrupt
from reasoner.cluster import crew as driver
from reasoner.cluster import placing
from reasoner.config import validate
from reasoner.folder import claimed
from reasoner.ledger import Ledger
from reasoner.parts import begin_parts, marked, of_mark
from reasoner.pipeline import PARTS
from reasoner.registry import UserError
from reasoner.run_config import RunConfig
from reasoner.store import write_text
from reasoner.trainers.loop import Session


class RayError(Exception):
    pass


class Threads:
    """What the driver uses of Ray: actors are objects whose calls run one after the other in a thread of each."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, cpus: float):
        self.cpus, self.actors = cpus, []

    def nodes(self):
        return [
            {"Alive": True, "Resources": {"CPU": self.cpus}},
            {"Alive": False, "Resources": {"CPU": 99.0}},
        ]

    def remote(self, kind):
        return SimpleNamespace(options=lambda **asked: SimpleNamespace(remote=lambda *a: self.made(kind, a)))

    def made(self, kind, arguments):
        actor = SimpleNamespace(calls=queue.SimpleQueue(), is_dead=False, own=kind(*arguments))
        actor.turn = SimpleNamespace(remote=lambda *a: self.call(actor, a))
        threading.Thread(target=self.serve, args=(actor,), daemon=True).start()
        self.actors.append(actor)
        return actor

    def call(self, actor, arguments):
        answer = queue.Queue()
        actor.calls.put((answer, arguments))
        return answer

    def serve(self, actor):
        for answer, arguments in iter(actor.calls.get, None):
            found = actor.own.turn(*arguments)
            answer.put(RayError("the actor died: SIGKILL") if actor.is_dead else found)

    def wait(self, answers, num_returns, timeout):
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            if ready := [a for a in answers if not a.empty()]:
                return ready[:1], []
            time.sleep(0.002)
        return [], answers

    def get(self, answer):
        found = answer.get()
        if isinstance(found, Exception):
            raise found
        return found

    def kill(self, actor, no_restart):
        actor.is_dead = True
        actor.calls.put(None)
        actor.own.turn(
            [], True, 0.0
        )  # its thread ends, and with it what would end this process for want of a driver


@pytest.fixture
def stage(tmp_path):
    """A label stage of a run that has begun: what the pipeline hands to the driver."""
    config = validate(
        RunConfig,
        {
            "out": str(tmp_path / "out"), "min_isolation": "A", "problems": {}, "ray": {"label": {"workers": 3}},
            "stages": [{"kind": "label", "model": "none"}],
        },
        "test",
    )  # fmt: skip
    out = tmp_path / "out"
    with claimed(out):
        begin_parts(out / "stages/label" / PARTS, "this")
        ledger, logged, told = Ledger(), [], []
        with ledger.stage("label"):
            session = Session(out, ledger, lambda m, step: logged.append(m), lambda *a: told.append(a))
            session.parts = out / "stages/label" / PARTS
            yield SimpleNamespace(
                config=config, one=config.stages[0], session=session, ledger=ledger, logged=logged, told=told
            )


def hand_out(ray: Threads, stage, do, numbers, *facts):
    return driver._Stage(ray, stage.config, stage.one, stage.session, do, list(numbers), facts).run()


def test_a_signal_inside_of_ray_is_that_signal(monkeypatch):
    def inside(*_):
        try:
            raise interrupt.Stopped(signal.SIGTERM)
        except interrupt.Stopped as stop:
            raise SystemError("returned a result with an exception set") from stop

    group = SimpleNamespace(placed=SimpleNamespace(wait=inside), close=lambda: None)
    ray = SimpleNamespace(exceptions=SimpleNamespace(RayTaskError=RayError))
    for name, stand_in in (("nodes_of", list), ("bundles_of", lambda *_: None), ("Group", lambda *_: group)):
        monkeypatch.setattr(placing, name, stand_in)
    config, session = SimpleNamespace(ray={}), SimpleNamespace(ending=ExitStack())
    waits = [
        lambda: placing.cause_of(ray, inside),
        lambda: placing.place([], True, config, None, session, 1, 0),
    ]
    for wait in waits:
        with pytest.raises(interrupt.Stopped) as stopped:
            wait()
        assert stopped.value.number == signal.SIGTERM
    with pytest.raises(SystemError):  # another fault of Ray's stays one
        placing.cause_of(ray, lambda: (_ for _ in ()).throw(SystemError("another")))


def test_a_cluster_whose_machines_are_gone_is_named(stage):
    ray = Threads(cpus=1)
    ray.nodes = lambda: [{"Alive": False, "Resources": {"CPU": 99.0}}]
    with pytest.raises(UserError, match="no machine of the Ray cluster is there any more"):
        hand_out(ray, stage, lambda parts, *_: None, range(2))


def test_a_signal_stops_between_two_turns_and_nothing_inside_of_ray(stage, monkeypatch):
    """Ray's own code makes a fault of its own out of what a signal raises in it."""
    monkeypatch.setattr(interrupt, "_state", interrupt._State())
    ray = Threads(cpus=1)
    wait, turns = ray.wait, []

    def asked(*arguments, **more):
        turns.append(interrupt._state.deferring)
        interrupt.ask(signal.SIGTERM)
        return wait(*arguments, **more)

    ray.wait = asked
    with pytest.raises(interrupt.Stopped) as stopped:
        hand_out(ray, stage, lambda parts, *_: [time.sleep(0.05) for _ in parts], range(8))
    assert stopped.value.number == signal.SIGTERM and turns == [1]
    assert ray.actors and all(actor.is_dead for actor in ray.actors)


def write(config, context, own, text):
    """As a stage does a part: a file, what it cost, and the mark."""
    for number in own.numbers:
        write_text(context.out / "trees/label" / f"{number}.parquet", f"{text} {number}")
        time.sleep(0.01)
        context.session.ledger.add("policy", decoded=number)
        own.done(number, {"parts": 1})
    return own.rank


def test_each_part_is_done_once_and_booked(stage):
    ray = Threads(3.0)
    results = hand_out(ray, stage, write, range(20, 50), "rows")
    assert sorted(results) == [0, 1, 2] and len(ray.actors) == 3
    out = stage.session.parts.parents[2]
    assert marked(stage.session.parts) == set(range(20, 50))
    for number in range(20, 50):
        assert (out / "trees/label" / f"{number}.parquet").read_text() == f"rows {number}"
    assert stage.ledger.counts["label"]["policy"]["decoded"] == sum(range(20, 50))
    assert len({of_mark(stage.session.parts, n)["rank"] for n in range(20, 50)}) == 3
    assert stage.ledger.processes == {"label": 3} and stage.told[-1][:2] == (30, 30)
    (facts,) = stage.logged
    assert facts["ray/workers"] == 3 and facts["ray/lost"] == 0 and 0.2 < facts["ray/busy"] <= 1
    assert all(actor.is_dead for actor in ray.actors)


def test_parts_that_wait_are_few(stage, monkeypatch):
    """A worker that is busy holds the part that it works on and one more; the rest stay with the driver."""
    most = []

    class Counting(driver.HandOut):
        def give(self, worker, wanted):
            given = super().give(worker, wanted)
            most.append(len(self.under_way[worker]))
            return given

    monkeypatch.setattr(driver, "HandOut", Counting)
    hand_out(Threads(3.0), stage, write, range(30), "rows")
    assert 1 <= max(most) <= 3  # under way, just ended, and one ahead


def test_what_a_lost_worker_had_is_done_by_another(stage):
    ray = Threads(3.0)

    def dies_at_7(config, context, own, text):
        for number in own.numbers:
            if number == 7 and len(ray.actors) == 3:
                ray.actors[own.rank].is_dead = True
                time.sleep(5)
            write(config, context, SimpleNamespace(numbers=[number], done=own.done, rank=0), text)

    hand_out(ray, stage, dies_at_7, range(20), "rows")
    assert marked(stage.session.parts) == set(range(20)) and len(ray.actors) == 4
    assert stage.logged[0]["ray/lost"] == 1
    assert stage.ledger.counts["label"]["policy"]["decoded"] == sum(range(20))


def test_a_worker_that_ends_without_its_parts_has_not_done_them(stage):
    ray = Threads(3.0)

    def leaves_one(config, context, own, text):
        for number in own.numbers:
            if number != 5 or len(ray.actors) > 3:
                write(config, context, SimpleNamespace(numbers=[number], done=own.done, rank=0), text)

    hand_out(ray, stage, leaves_one, range(12), "rows")
    assert marked(stage.session.parts) == set(range(12)) and stage.logged[0]["ray/lost"] == 1


def fails(config, context, own, problem):
    for _ in own.numbers:
        raise problem


def test_a_users_fault_ends_the_stage_at_once_as_it_is(stage):
    ray = Threads(3.0)
    with pytest.raises(UserError, match=r"^the verifier is not there$"):
        hand_out(ray, stage, fails, range(9), UserError("the verifier is not there"))
    assert len(ray.actors) == 3 and all(actor.is_dead for actor in ray.actors)


def test_another_failure_is_tried_on_other_workers_and_then_told(stage):
    ray = Threads(3.0)
    with pytest.raises(UserError, match=r"workers ended .*MemoryError: 80 GB are full"):
        hand_out(ray, stage, fails, range(9), MemoryError("80 GB are full"))
    assert 4 <= len(ray.actors) <= 8


def test_nothing_left_starts_nobody(stage):
    ray = Threads(3.0)
    assert hand_out(ray, stage, write, [], "rows") == [] and not ray.actors


def test_a_folder_that_the_worker_does_not_share_is_refused(stage, monkeypatch):
    monkeypatch.setattr(driver, "held_by", lambda out: "another owner")
    with pytest.raises(UserError, match="expected one that all machines share"):
        hand_out(Threads(3.0), stage, write, range(3), "rows")


def test_a_machine_that_joins_later_gets_workers(stage, monkeypatch):
    ray = Threads(1.0)
    stage.config = stage.config.model_copy(update={"ray": {}})
    monkeypatch.setattr(driver, "LOOK_S", 0.0)

    def joined(config, context, own, text):
        ray.cpus = 3.0
        return write(config, context, own, text)

    hand_out(ray, stage, joined, range(40), "rows")
    assert len(ray.actors) == 3 and stage.logged[0]["ray/workers"] == 3


def test_a_worker_that_stands_still_is_replaced(stage, monkeypatch):
    ray = Threads(3.0)
    monkeypatch.setattr(driver, "TURN_S", 0.1)
    monkeypatch.setattr(driver, "beat", lambda: None)  # here it would be the signs of life of its workers
    stage.config = stage.config.model_copy(update={"stalled_after": 0.5, "ray": {}})

    def stands_at_4(config, context, own, text):
        for number in own.numbers:
            if number == 4 and len(ray.actors) == 3:
                time.sleep(5)
            write(config, context, SimpleNamespace(numbers=[number], done=own.done, rank=0), text)

    hand_out(ray, stage, stands_at_4, range(12), "rows")
    assert marked(stage.session.parts) == set(range(12)) and stage.logged[0]["ray/lost"] == 1


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "ray://head:10001", "head:port"])
def test_an_address_of_another_form_is_refused(address):
    with pytest.raises(UserError, match=r"expected HOST:PORT of a cluster's head, auto"):
        driver._check_answers(address)


def test_an_address_where_nothing_answers_is_refused():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=rf"nothing answers at 127\.0\.0\.1:{port} .*ray start --head"):
        driver._check_answers(f"127.0.0.1:{port}")


def test_ray_that_is_absent_or_old_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"cannot be imported .*pip install 'reasoner\[ray\]'"):
        driver._ray()
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(__version__="2.9.3"))
    with pytest.raises(UserError, match=r"got Ray 2\.9\.3, expected 2\.60 or newer"):
        driver._ray()


def test_another_version_than_the_clusters_is_one_line():
    def init(**options):
        raise RuntimeError(
            "Version mismatch: The cluster was started with:\n    Ray: 2.55.0\n    Python: 3.12.1"
        )

    with pytest.raises(UserError, match=r"Ray: 2\.55\.0 Python: 3\.12\.1; expected the versions of this mac"):
        driver._connect(
            SimpleNamespace(init=init, __version__="2.60.0", exceptions=Threads.exceptions), "auto"
        )


def test_a_cluster_that_asks_for_a_token_is_one_line():
    def init(**options):
        raise RayError("Token authentication is enabled but no authentication token was found.")

    ray = SimpleNamespace(init=init, __version__="2.60.0", exceptions=Threads.exceptions)
    with pytest.raises(UserError, match=r"no Ray cluster at auto: Token .* with RAY_AUTH_MODE=token"):
        driver._connect(ray, "auto")
