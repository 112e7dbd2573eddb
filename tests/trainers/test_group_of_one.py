"""One chain a problem: refused where its advantage can only be 0, by what the advantages themselves say."""

import pytest
from small_models import CORRECT, make_tree

from reasoner.config import ConfigError, validate
from reasoner.signals.advantages import ADVANTAGES
from reasoner.signals.credit import AdvantageConfig
from reasoner.trainers.policy_config import ALONE_IN_VAIN, PolicyGradientStage

ONE = {"num_roots": 1, "num_points": 0}


def stage(**options):
    return validate(PolicyGradientStage, options, "test")


def learns_alone(method: str) -> bool:
    tree = make_tree([1, 2], (0, 2, [10, 20, 30], [1, 2]), verdicts={1: CORRECT})
    tree.scores["value"], tree.scores["token_value"] = {0: [0.3], 1: [0.4, 0.4]}, {0: [0.3], 1: [0.4] * 3}
    tree.scores["pass_rate"] = {0: [0.5]}
    return bool(abs(ADVANTAGES[method](tree, AdvantageConfig(method=method)).advantages[1]).max())


@pytest.mark.parametrize("method", ADVANTAGES)
def test_a_method_without_an_advantage_of_one_is_refused(method):
    options = {"advantage": {"method": method}, "drop_uniform": False, "curriculum": {}}
    assert (method in ALONE_IN_VAIN) == (not learns_alone(method))
    for tree in (ONE, {"num_roots": 1, "num_rounds": 0}):
        if method in ALONE_IN_VAIN:
            with pytest.raises(ConfigError, match=rf"{method} compares the chains.*raise tree\.num_roots"):
                stage(tree=tree, **options)
        else:
            assert stage(tree=tree, **options).tree.num_roots == 1
    assert stage(tree={"num_roots": 2, "num_points": 0}, **options)


def test_one_chain_is_always_uniform():
    with pytest.raises(ConfigError, match="drop_uniform leaves out"):
        stage(tree=ONE)
    assert stage(tree={"num_roots": 1, "num_points": 2}).drop_uniform
    with pytest.raises(ConfigError, match="rloo compares"):
        stage(tree={"num_roots": 1, "num_points": 2}, advantage={"method": "rloo"})
