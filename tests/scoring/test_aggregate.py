"""One score of a solution from those of its steps, and which one a PRM's labels ask for."""

import pytest

from reasoner.scoring.aggregate import AGGREGATES, LABELS_FILE, default_aggregate
from reasoner.store import write_json


def test_by_hand():
    found = {name: aggregate([0.9, 0.4, 0.8]) for name, aggregate in AGGREGATES.items()}
    expected = {"last": 0.8, "min": 0.4, "product": 0.288, "mean": 0.7, "geometric_mean": 0.288 ** (1 / 3)}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "expected"), [("human", "product"), ("soft", "min"), ("spread", "min")])
def test_the_labels_choose(tmp_path, kind, expected):
    write_json(tmp_path / LABELS_FILE, {"kind": kind})
    assert default_aggregate(tmp_path) == expected


def test_nothing_said_is_monte_carlo(tmp_path):
    assert default_aggregate(None) == default_aggregate(tmp_path) == "min"
