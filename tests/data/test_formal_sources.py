"""Theorems and constraints as problems: made here, and read from published files."""

import pytest

from reasoner.data import constraints, theorems
from reasoner.data.sources import SourceConfig, load_items
from reasoner.registry import UserError
from verifiers import verify
from verifiers.proof import coq, lean_text, smt


@pytest.mark.parametrize("name", ["coq", "smt"])
def test_the_same_place_gives_the_same_problem_and_starts_do_not_meet(name):
    first = load_items(SourceConfig(name=name, size=60))
    assert load_items(SourceConfig(name=name, size=60)) == first
    later = load_items(SourceConfig(name=name, size=60, start=10_000))
    assert not {i.problem.id for i in first} & {i.problem.id for i in later}
    assert len({i.problem.domain for i in first}) == len(
        (theorems if name == "coq" else constraints).FAMILIES
    )


@pytest.mark.parametrize(("name", "here"), [("coq", coq.find), ("smt", smt.find)])
def test_solutions_are_right_by_the_verifier(name, here):
    if here() is None:
        pytest.skip(f"{name} is not installed")
    items = load_items(SourceConfig(name=name, size=24))
    assert len(items) > 12
    found = [verify(i.problem.verifier, i.solution, i.problem.reference).status for i in items]
    assert set(found) == {"correct"}


def test_difficulty_makes_problems_longer():
    for name, family in (("coq", "propositional"), ("smt", "colouring")):
        lengths = []
        for difficulty in (1, 5):
            config = SourceConfig(name=name, size=30, families={family: {"difficulty": difficulty}})
            items = load_items(config)
            lengths.append(sum(len(i.problem.prompt) for i in items) / len(items))
        assert lengths[1] > 1.3 * lengths[0]


@pytest.mark.parametrize(
    "families",
    [{"algebra": {}}, {"linear": {"difficulty": 9}}, {"linear": {"size": 3}}, {"linear": {"difficulty": []}}],
)
def test_a_family_that_is_not_there_is_one_line(families):
    with pytest.raises(UserError, match=r"families\.\w+ is .*expected one of linear, colouring"):
        load_items(SourceConfig(name="smt", families=families))


def test_constraints_have_solutions_and_have_none():
    for family in constraints.FAMILIES:
        found = [next(constraints.solutions(constraints.constraints(family, i, 2)), None) for i in range(60)]
        assert 0 < sum(f is None for f in found) < 45, family


@pytest.mark.parametrize(
    ("name", "file", "count"),
    [("minif2f", "dspv15_minif2f.visible.jsonl", 244), ("minif2f", "miniF2F-lean4.visible.jsonl", 244),
     ("minif2f", "dspv15_minif2f_valid_few_shot.jsonl", 67)],
)  # fmt: skip
def test_published_theorems_are_read(shared_data, name, file, count):
    items = load_items(SourceConfig(name=name, path=str(shared_data / "lean" / file)))
    assert len(items) == count
    for item in items:
        reference = item.problem.reference
        assert reference["system"] == "lean" and item.problem.verifier == "proof"
        named, _, kind = lean_text.parts(reference["statement"])
        assert (
            item.problem.id.startswith(f"minif2f/{named}")
            and kind
            and not kind.endswith((":=", "by", "sorry"))
        )
        assert "theorem" not in reference["header"]


def test_definitions_of_proofnet_are_left_out_and_counted(shared_data):
    path = str(shared_data / "lean/dspv15_proofnet.visible.jsonl")
    with pytest.warns(UserWarning, match="proofnet: 7 rows state no theorem and are left out"):
        items = load_items(SourceConfig(name="proofnet", path=path))
    assert len(items) == 178
