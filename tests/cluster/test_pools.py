"""How many workers a stage gets, from the YAML or from what the machines have."""

from types import SimpleNamespace

import pytest

from reasoner.registry import UserError
from reasoner.stages.pools import CPUS, Pool, Size, check_pools, pool_of, size_of
from reasoner.stages.share import Share

LAPTOP = [{"CPU": 2.0}]
FARM = [{"CPU": 64.0}] * 2
GPUS = [{"CPU": 96.0, "GPU": 8.0}, {"CPU": 96.0, "GPU": 8.0}, {"CPU": 32.0}]


def stage(kind: str, urls=(), name: str = ""):
    return SimpleNamespace(kind=kind, name=name or kind, engine=SimpleNamespace(urls=list(urls)))


@pytest.mark.parametrize(
    ("kind", "pool", "nodes", "parts", "size"),
    [
        ("rollout", {}, LAPTOP, 38, Size(1, 2, 0)),
        ("rollout", {"workers": 2, "cpus": 1}, LAPTOP, 38, Size(2, 1, 0)),
        ("rollout", {}, FARM, 1000, Size(32, 4, 0)),
        ("rollout", {}, FARM, 3, Size(3, 4, 0)),  # no more than there are parts
        ("rollout", {}, GPUS, 1000, Size(16, 12, 1)),  # each GPU with its share of the cores
        ("rollout", {"gpus": 2}, GPUS, 1000, Size(8, 24, 2)),
        ("rollout", {"gpus": 0}, GPUS, 1000, Size(56, 4, 0)),
        ("complete", {"cpus": 48}, GPUS, 1000, Size(4, 48, 1)),
        ("verify", {}, GPUS, 1000, Size(56, 4, 0)),  # on machines without GPUs, too
        ("label", {}, GPUS, 1000, Size(224, 1, 0)),
        ("label", {"workers": 500}, GPUS, 1000, Size(500, 1, 0)),  # asked for: the others wait for room
    ],
)
def test_sizes(kind, pool, nodes, parts, size):
    assert size_of(Pool(**pool), stage(kind), nodes, parts) == size


def test_what_no_machine_has_is_refused_with_what_they_have():
    with pytest.raises(UserError, match=r"takes 4 CPUs and 1 GPUs and no machine .*\(2 CPUs and 0 GPUs\)"):
        size_of(Pool(gpus=1, cpus=4), stage("rollout"), LAPTOP, 9)
    with pytest.raises(UserError, match=r"\(nothing\)"):
        size_of(Pool(), stage("verify"), [], 9)


def test_servers_that_are_shared_get_one_worker():
    assert size_of(Pool(), stage("rollout", ["http://a", "http://b"]), FARM, 99) == Size(1, 4, 0)
    with pytest.raises(UserError, match="expected 1, since each would send"):
        size_of(Pool(workers=2), stage("rollout", ["http://a"]), FARM, 99)


def test_a_pool_is_found_by_name_before_kind():
    pools = {"rollout": Pool(cpus=1), "second": Pool(cpus=2)}
    assert pool_of(pools, stage("rollout", name="second")).cpus == 2
    assert pool_of(pools, stage("rollout", name="first")).cpus == 1
    assert pool_of(pools, stage("label")) == Pool()


def test_a_pool_of_no_stage_is_refused_with_the_nearest_name():
    check_pools({"second": Pool(), "verify": Pool()}, [stage("rollout", name="second")])
    with pytest.raises(UserError, match="did you mean rollout"):
        check_pools({"rolout": Pool()}, [])
    with pytest.raises(UserError, match=r"got ray\.evaluate, .*the others run in the first process"):
        check_pools({"evaluate": Pool()}, [stage("evaluate")])


def test_every_stage_that_hands_its_parts_out_has_a_size():
    import reasoner.stages

    handing = {
        kind
        for kind, run in reasoner.stages.STAGES.items()
        if Share.__name__ in run.__globals__ and "work" in run.__code__.co_names
    }
    assert handing == set(CPUS)
