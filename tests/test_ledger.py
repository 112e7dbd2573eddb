"""Counts per stage and model, seconds per stage, and totals."""

import time

import pytest

from reasoner.ledger import Ledger, flops


def two_stages() -> Ledger:
    ledger = Ledger()
    with ledger.stage("rollout"):
        ledger.add("policy", prefilled=100, reused=50, decoded=30)
        ledger.add("policy", decoded=12, forwards=4)
        ledger.add("prm", scored=7)
    with ledger.stage("update"):
        ledger.add("policy", trained=42, decoded=1, flops=flops(1000, 42, training=True))
    return ledger


def test_flops():
    assert flops(7_000_000_000, 10, training=False) == 140_000_000_000
    assert flops(7_000_000_000, 10, training=True) == 420_000_000_000


def test_counts_by_stage_and_model():
    ledger = two_stages()
    assert ledger.counts == {
        "rollout": {
            "policy": {"prefilled": 100, "reused": 50, "decoded": 42, "forwards": 4},
            "prm": {"scored": 7},
        },
        "update": {"policy": {"trained": 42, "decoded": 1, "flops": 252_000}},
    }
    assert ledger.total("decoded") == 43
    assert ledger.total("verifications") == 0


def test_seconds_of_a_stage_add_up():
    ledger = Ledger()
    for _ in range(2):
        with ledger.stage("wait"):
            time.sleep(0.02)
    assert 0.04 <= ledger.seconds["wait"] < 2
    assert ledger.total("seconds") == ledger.seconds["wait"]


def test_a_failing_stage_is_booked_and_left():
    ledger = Ledger()
    with pytest.raises(KeyError), ledger.stage("fails"):
        raise KeyError
    assert ledger.seconds["fails"] > 0
    with ledger.stage("next"):
        ledger.add("policy", decoded=1)
    assert ledger.total("decoded") == 1


def test_unknown_counter_books_nothing():
    ledger = Ledger()
    with (
        ledger.stage("rollout"),
        pytest.raises(ValueError, match="counter 'decodd', expected one of prefilled"),
    ):
        ledger.add("policy", decoded=5, decodd=1)
    assert ledger.total("decoded") == 0
    with pytest.raises(ValueError, match="counter 'decodd'"):
        ledger.total("decodd")


@pytest.mark.parametrize("number", [-1, float("nan")])
def test_counters_only_grow(number):
    ledger = Ledger()
    with ledger.stage("rollout"), pytest.raises(ValueError, match="expected 0 or more"):
        ledger.add("policy", decoded=number)


def test_counts_need_a_stage_and_stages_dont_nest():
    ledger = Ledger()
    with pytest.raises(ValueError, match="outside a stage"):
        ledger.add("policy", decoded=1)
    with ledger.stage("a"), pytest.raises(ValueError, match="'b' inside 'a'"), ledger.stage("b"):
        pass


def test_a_stage_of_two_ranks_adds_up():
    ledger = Ledger(
        {"init": {"m": {"scored": 1}}, "update": {"policy": {"decoded": 10}}}, {"update": 2.0, "init": 5.0}
    )
    other = Ledger({"update": {"policy": {"decoded": 5, "scored": 1}, "prm": {"scored": 2}}}, {"update": 3.0})
    ledger.gather("update", [ledger.to_dict(), other.to_dict()])
    assert ledger.counts["update"] == {"policy": {"decoded": 15, "scored": 1}, "prm": {"scored": 2}}
    assert ledger.counts["init"] == {"m": {"scored": 1}}
    assert ledger.seconds == {"init": 5.0, "update": 3.0}
    assert ledger.processes == {"update": 2}
    ledger.counts["update"]["prm"]["scored"] = 99
    assert other.counts["update"]["prm"]["scored"] == 2


def test_save_and_load_go_on_counting(tmp_path):
    ledger = two_stages()
    ledger.save(tmp_path / "ledger.json")
    loaded = Ledger.load(tmp_path / "ledger.json")
    assert loaded == ledger
    with loaded.stage("update"):
        loaded.add("policy", trained=8)
    assert loaded.total("trained") == 50
    assert ledger.total("trained") == 42


def test_from_dict_shares_nothing():
    ledger = two_stages()
    copy = Ledger.from_dict(ledger.to_dict())
    with copy.stage("rollout"):
        copy.add("policy", decoded=1)
    assert ledger.total("decoded") == 43


def test_seconds_busy_are_those_of_all_processes_less_what_they_waited():
    ledgers = [Ledger({"update": {"verifier": {"seconds_waiting": w}}}, {"update": 10.0}) for w in (0.5, 1.5)]
    ledgers[0].gather("update", [one.to_dict() for one in ledgers])
    assert ledgers[0].busy("update") == 2 * 10 - 2.0
    assert ledgers[1].busy("update") == 10 - 1.5 and ledgers[1].busy("nothing") == 0


def test_a_ledger_of_an_older_version_is_read(tmp_path):
    (tmp_path / "ledger.json").write_text('{"counts": {"a": {"m": {"decoded": 2}}}, "seconds": {"a": 1.0}}')
    ledger = Ledger.load(tmp_path / "ledger.json")
    assert ledger.total("decoded") == 2 and ledger.processes == {} and ledger.dollars == {}
