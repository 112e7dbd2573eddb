"""A file that is no UTF-8 is one line: the file, the line, the byte and the remedy, whoever reads it."""

import gzip
from pathlib import Path

import pytest

from reasoner.commands.import_labels import known_questions
from reasoner.config import read_yaml, validate
from reasoner.data.importers import Import
from reasoner.data.prompting import _jinja
from reasoner.data.sources import SourceConfig, load_items
from reasoner.evals.recorded import read_groups
from reasoner.registry import UserError

FILES = {
    "rows.jsonl": '{"prompt": "café", "answer": "2"}\n',
    "rows.json": '[\n{"prompt": "café", "answer": "2"}]\n',
    "rows.csv": "prompt,answer\ncafé,2\n",
    "rows.yaml": "- answer: 2\n  prompt: café\n",
    "rows.jsonl.gz": '{"prompt": "café", "answer": "2"}\n',
}
READERS = {
    "source": lambda path: list(
        load_items(validate(SourceConfig, {"name": "jsonl", "path": str(path)}, "test"))
    ),
    "replay": read_groups,
    "import": lambda path: list(Import(path)),
    "questions": known_questions,
}


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", FILES)
def test_latin_1_is_named_with_its_place_and_a_remedy(tmp_path, reader, name):
    path = written(tmp_path, name, FILES[name].encode("latin-1"))
    lines = FILES[name].splitlines()
    number = next(i for i, line in enumerate(lines) if "é" in line)
    with pytest.raises(UserError) as caught:
        READERS[reader](path)
    text = str(caught.value)
    assert name in text and f"line {number + 1}" in text and "\n" not in text
    assert f"0xe9 at byte {lines[number].index('é') + 1}" in text
    assert "iconv -f WINDOWS-1252 -t UTF-8" in text


def test_utf_16_has_its_own_remedy(tmp_path):
    path = written(tmp_path, "rows.jsonl", FILES["rows.jsonl"].encode("utf-16"))
    with pytest.raises(UserError, match=r"0xff at byte 1, convert it: iconv -f UTF-16 -t UTF-8"):
        READERS["source"](path)


@pytest.mark.parametrize("read", [read_yaml, lambda path: _jinja(str(path))])
def test_configs_and_templates(tmp_path, read):
    path = written(tmp_path, "config.yaml", "title: café\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"config\.yaml.*0xe9 at byte 11, convert it: iconv"):
        read(path)


def test_utf_8_with_and_without_a_mark_is_read(tmp_path):
    for encoding in ("utf-8", "utf-8-sig"):
        items = READERS["source"](written(tmp_path, "rows.jsonl", FILES["rows.jsonl"].encode(encoding)))
        assert [i.problem.prompt for i in items] == ["café"]
        assert read_yaml(written(tmp_path, "c.yaml", "title: café\n".encode(encoding))) == {"title": "café"}
