"""Splits by a hash of the text: parts are disjoint over files, together they are the whole, and the rule is fixed."""

import hashlib
import json

import pytest

from reasoner.config import ConfigError, validate
from reasoner.data.rows import SourceConfig
from reasoner.data.sources import load_items, place_of
from reasoner.registry import UserError
from verifiers import verify

QUESTIONS = [f"Tom has {i} apples and eats {i // 2}. How many are left?" for i in range(400)]


@pytest.fixture
def files(tmp_path):
    """Two files with the same problems, of which the second writes them in another way and order."""
    other = [q.replace(" apples", "  Apples").replace(".", " .") for q in reversed(QUESTIONS)]
    for name, questions in (("a", QUESTIONS), ("b", other)):
        rows = (json.dumps({"prompt": q, "answer": "1"}) for q in questions)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    return tmp_path


def texts(folder, name: str, part: tuple[float, float]) -> set[str]:
    items = load_items(SourceConfig(name="jsonl", path=str(folder / f"{name}.jsonl"), part=part))
    return {i.problem.prompt.lower().replace("  ", " ").replace(" .", ".") for i in items}


def test_parts_share_nothing_and_are_together_all(files):
    parts = [(0.0, 0.25), (0.25, 0.3), (0.3, 1.0)]
    found = [texts(files, "a", part) for part in parts]
    assert sum(map(len, found)) == 400 and set.union(*found) == {q.lower() for q in QUESTIONS}
    assert 70 < len(found[0]) < 130
    # the same problem is in the same part in whatever file it stands
    assert [texts(files, "b", part) for part in parts] == found


def test_the_place_is_the_sha_256_of_the_words():
    digest = hashlib.sha256(b"how many apples ? $5").hexdigest()  # "$" only sets a text
    assert digest != hashlib.sha256(b"how many apples ? 5").hexdigest()
    expected = int(hashlib.sha256(b"how many apples ? 5").hexdigest()[:12], 16) / 16**12
    assert place_of("How  many apples? $5") == expected
    assert place_of("How many apples? 6") != expected


def test_an_empty_part_and_a_wrong_span_are_told(files):
    path = str(files / "a.jsonl")
    with pytest.raises(UserError, match=r"none of its 400 problems in part \[0.5, 0.50001\]"):
        load_items(SourceConfig(name="jsonl", path=path, part=(0.5, 0.50001)))
    for part in ([0.5, 0.5], [0.6, 0.2], [-0.1, 0.2], [0.0, 1.1]):
        with pytest.raises(ConfigError, match=r"part: got part=.*; expected two numbers from 0 to 1"):
            validate(SourceConfig, {"name": "jsonl", "path": path, "part": part}, "x.yaml")


def test_how_answers_are_found_is_the_sources(tmp_path):
    path = tmp_path / "x.jsonl"
    rows = [
        {"prompt": "3 + 4?", "answer": "7"},
        {"prompt": "5?", "reference": {"answer": "5", "extract": "boxed"}},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))

    def statuses(**keys) -> list[str]:
        said = "The two boys have some apples in a basket.\nSo together they have 3 + 4 = 7 apples in there."
        items = load_items(SourceConfig(name="jsonl", path=str(path), **keys))
        return [verify(i.problem.verifier, said, i.problem.reference).status for i in items]

    assert statuses() == ["no_answer", "no_answer"]
    assert statuses(extract="last_math") == ["correct", "no_answer"]  # the second row has a rule of its own
    with pytest.raises(UserError, match=r"last_maths.*last_math"):
        statuses(extract="last_maths")
