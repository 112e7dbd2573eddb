"""What a placement group asks for: cores and GPUs of each rank and server, and whether the machines have them at once."""

from types import SimpleNamespace

import pytest

from reasoner.registry import UserError
from reasoner.stages.bundles import Bundles, bundles_of, fit, servers_of
from reasoner.stages.pools import Pool, Size, check_pools, ranks_of

LAPTOP = [{"CPU": 2.0}]
FARM = [{"CPU": 16.0}, {"CPU": 16.0}]
GPUS = [{"CPU": 96.0, "GPU": 8.0}, {"CPU": 64.0, "GPU": 8.0}, {"CPU": 32.0}]
PPO = SimpleNamespace(kind="ppo", name="ppo")


@pytest.mark.parametrize(
    ("pools", "nodes", "ranks", "servers", "found"),
    [
        ({}, FARM, 0, 2, Bundles(Size(0, 4, 0), Size(2, 4, 0))),
        ({}, LAPTOP, 0, 2, Bundles(Size(0, 1, 0), Size(2, 1, 0))),  # as many cores as let all of them fit
        ({}, LAPTOP, 0, 1, Bundles(Size(0, 2, 0), Size(1, 2, 0))),
        ({}, FARM, 4, 6, Bundles(Size(4, 3, 0), Size(6, 3, 0))),  # ten of 4 cores would be 40, and are 5 + 5 of 3
        ({"servers": Pool(cpus=12)}, FARM, 2, 2, Bundles(Size(2, 4, 0), Size(2, 12, 0))),
        ({}, GPUS, 4, 4, Bundles(Size(4, 8, 1), Size(4, 8, 1))),  # a GPU with its share of the cores
        ({"servers": Pool(gpus=2)}, GPUS, 8, 4, Bundles(Size(8, 8, 1), Size(4, 16, 2))),
        ({"ppo": Pool(gpus=0, cpus=3)}, GPUS, 2, 1, Bundles(Size(2, 3, 0), Size(1, 8, 1))),
    ],
)  # fmt: skip
def test_sizes(pools, nodes, ranks, servers, found):
    assert bundles_of(pools, PPO, nodes, ranks, servers) == found


def test_ranks_come_first_and_what_takes_a_gpu_is_packed():
    both = bundles_of({"servers": Pool(gpus=2)}, PPO, GPUS, 1, 2)
    assert both.resources == [{"CPU": 8, "GPU": 1}, {"CPU": 16, "GPU": 2}, {"CPU": 16, "GPU": 2}]
    assert both.strategy == "PACK"
    assert bundles_of({}, PPO, FARM, 1, 1).strategy == "SPREAD"
    # machines with GPUs of which nothing is taken
    assert bundles_of({"ppo": Pool(gpus=0)}, PPO, GPUS, 2, 0).strategy == "SPREAD"


def test_all_have_to_fit_at_once():
    assert fit([{"CPU": 1, "GPU": 8}, {"CPU": 32}, {"CPU": 96, "GPU": 8}], GPUS)
    assert not fit([{"CPU": 1, "GPU": 8}, {"CPU": 1, "GPU": 8}, {"CPU": 1, "GPU": 1}], GPUS)
    assert fit([{"CPU": 9}, {"CPU": 9}], FARM) and not fit(
        [{"CPU": 9}] * 3, FARM
    )  # 27 of 32, in no two parts
    # what takes GPUs comes first, so that nothing else has the cores beside them
    assert fit([{"CPU": 30}, {"CPU": 96, "GPU": 8}, {"CPU": 64, "GPU": 8}], GPUS)


def test_too_little_is_one_line_with_what_is_asked_for_what_is_there_and_what_to_change():
    with pytest.raises(UserError) as told:
        bundles_of({}, PPO, LAPTOP, 2, 3)
    assert str(told.value) == (
        "ppo asks for 2 ranks of 1 CPUs and 0 GPUs and 3 servers of 1 CPUs and 0 GPUs, and the machines of the cluster do not "
        "have that at once (2 CPUs and 0 GPUs); expected room for all: lower engine.spawn of ppo, or set ray.servers.cpus and "
        "ray.servers.gpus, or lower ray.ppo.workers, or set ray.ppo.cpus and ray.ppo.gpus, or add a machine"
    )
    with pytest.raises(UserError, match=r"asks for 17 servers of 8 CPUs and 1 GPUs, and .*32 CPUs") as told:
        bundles_of({}, PPO, GPUS, 0, 17)
    assert "ray.ppo" not in str(told.value)
    with pytest.raises(UserError, match=r"\(nothing\)"):
        bundles_of({}, PPO, [], 0, 1)


def test_servers_of_data_stages_are_their_workers_own():
    spawning = SimpleNamespace(spawn=3)
    assert servers_of(SimpleNamespace(kind="ppo", engine=spawning)) == 3
    assert servers_of(SimpleNamespace(kind="evaluate", engine=spawning)) == 3
    assert servers_of(SimpleNamespace(kind="rollout", engine=spawning)) == 0
    assert servers_of(SimpleNamespace(kind="sft")) == 0


def test_a_trainer_has_the_ranks_that_its_pool_says():
    second = SimpleNamespace(kind="ppo", name="second")
    pools = {"ppo": Pool(cpus=1), "second": Pool(workers=4)}
    assert [ranks_of(pools, s) for s in (PPO, second)] == [1, 4]
    assert ranks_of({}, PPO) == 0
    assert ranks_of({"rollout": Pool(workers=3)}, SimpleNamespace(kind="rollout", name="rollout")) == 0


@pytest.mark.parametrize(
    ("pools", "words"),
    [
        ({"servers": Pool(workers=2)}, r"got ray\.servers\.workers=2; .*engine\.spawn"),
        ({"ppo": Pool(workers=2, gpus=2)}, r"got ray gpus=2 for ppo; expected 0 or 1.*ray\.ppo\.workers"),
        ({"server": Pool()}, "did you mean servers"),
    ],
)
def test_what_a_pool_cannot_say_is_refused(pools, words):
    check_pools({"servers": Pool(gpus=2), "ppo": Pool(workers=2, gpus=1)}, [PPO])
    with pytest.raises(UserError, match=words):
        check_pools(pools, [PPO])
