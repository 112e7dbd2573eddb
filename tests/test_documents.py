"""What the documents show is there: links lead somewhere, commands exist, and their YAML is a config."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from reasoner.cli import app
from reasoner.config import validate
from reasoner.pipeline import RunConfig

ROOT = Path(__file__).parent.parent


def documents() -> list[Path]:
    """Every page that is part of the project."""
    told = subprocess.run(
        ["git", "ls-files", "--", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    named = [ROOT / name for name in told.stdout.split()] or [
        p for p in ROOT.rglob("*.md") if ".venv" not in p.parts
    ]
    return [p for p in named if p.is_file()]


def links(text: str) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text) if "://" not in link]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_there_are_documents_and_a_dead_link_would_be_found():
    assert ROOT / "README.md" in documents()
    assert links("see [x](a/b.md#part) and [y](https://z)") == ["a/b.md"]


@pytest.mark.parametrize("page", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files(page):
    dead = [link for link in links(page.read_text("utf-8")) if not (page.parent / link).exists()]
    assert dead == []


def test_pictures_are_shown_and_small():
    pictures = set(ROOT.glob("reasoner/**/*.png"))
    shown = {(p.parent / link).resolve() for p in documents() for link in links(p.read_text("utf-8")) if link.endswith(".png")}
    assert len(pictures) >= 5 and {p.resolve() for p in pictures} == shown
    assert [p for p in pictures if p.stat().st_size > 120_000] == []


@pytest.mark.parametrize("page", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_exist(page):
    known = get_command(app).commands  # type: ignore[attr-defined]
    shown = [line.split() for block in blocks(page.read_text("utf-8"), "bash") for line in block.splitlines()]
    named = [words[1] for words in shown if len(words) > 1 and words[0] == "reasoner"]
    assert [name for name in named if name not in known] == []
    scripts = [words[1] for words in shown if len(words) > 1 and words[0] == "bash"]
    assert [path for path in scripts if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("page", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_configs_that_are_shown_can_be_read(page):
    for block in blocks(page.read_text("utf-8"), "yaml"):
        raw = yaml.safe_load(block)
        if isinstance(raw, list):  # stages alone
            raw = {"stages": raw}
        if "stages" not in raw:
            continue
        raw = {"problems": {"train": [{"name": "jsonl", "path": "x.jsonl"}]}, **raw}
        assert validate(RunConfig, raw, str(page)).stages
