"""The pictures in the documents: `python -m tests.viewing.pictures RUN [RUN ...] [--to reasoner/viewing/pictures]`.

Starts `reasoner view` on the runs and takes five views of it with Chromium, as PNG files of 128 colours. Those in the
documents are of the demo and of configs/evaluate_demo.yaml:

    python -m tests.viewing.pictures runs/demo runs/evaluate_demo

Stages without trees, and runs without test-time methods, have no picture of them.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from tests.viewing.chromium import Chromium

SIZE = (1180, 760)
COLOURS = 128
HEADING = "[...document.querySelectorAll('h2, h3')].find(h => h.textContent.startsWith({}))"


def curves(page: Chromium, url: str) -> bool:
    page.open(url, "document.querySelector('h1')")
    return _to(page, "ppo") or _to(page, "Training")


def methods(page: Chromium, url: str) -> bool:
    page.open(url, "document.querySelector('h1')")
    return _to(page, "Test-time")


def cost(page: Chromium, url: str) -> bool:
    page.open(f"{url}/cost", "document.querySelector('h1')")
    return True


def tree(page: Chromium, url: str) -> bool:
    """A tree of many nodes that is half right, coloured by the posterior of its states, with the chain of a leaf."""
    page.open(f"{url}/trees", "document.querySelector('#room')")
    if not page.evaluate(
        "JSON.parse(document.querySelector('main').dataset.runs).some(r => r.stages.length)"
    ):
        return False
    page.wait("document.querySelector('.list button')")
    place = page.evaluate("document.querySelector('.controls select').value").split("\n")
    rows = page.evaluate(f"fetch('api/trees?run={place[0]}&stage={place[1]}').then(r => r.json())")
    best = min(rows, key=lambda r: (abs(r["correct"] - r["judged"] / 2), -r["nodes"]))
    page.open(
        f"{url}/trees?seen#{best['shard']}.{best['row']}",
        "document.querySelectorAll('.tree g.node').length > 1",
    )
    page.evaluate(
        "(s => {s.value = 'posterior'; s.dispatchEvent(new Event('change'))})"
        "([...document.querySelectorAll('select')].at(-1))"
    )
    page.evaluate("document.querySelector('.tree').focus()")
    page.press("ArrowRight", "ArrowDown", "ArrowDown", "Enter")
    page.wait("document.querySelector('#detail .sample')")
    return True


def chains(page: Chromium, url: str) -> bool:
    """The first of the chains that match, with its steps."""
    page.open(f"{url}/chains", "document.querySelector('#room')")
    if not page.evaluate(
        "JSON.parse(document.querySelector('main').dataset.runs).some(r => r.stages.length)"
    ):
        return False
    page.wait("document.querySelector('.chains button')")
    page.evaluate("document.querySelector('.chains button').click()")
    page.wait("document.querySelector('.chains .sample')")
    return True


VIEWS: dict[str, Callable[[Chromium, str], bool]] = {
    "curves": curves, "tree": tree, "chains": chains, "methods": methods, "cost": cost,
}  # fmt: skip


def _to(page: Chromium, heading: str) -> bool:
    """Scroll to a heading of the page; False where it has none."""
    found = HEADING.format(json.dumps(heading))
    return bool(page.evaluate(f"(h => {{ h?.scrollIntoView(); return Boolean(h) }})({found})"))


def take(url: str, to: Path) -> dict[str, Path]:
    """Each view that there is, as a file of the folder; what the browser's console says is an error."""
    made = {}
    with tempfile.TemporaryDirectory() as profile:
        page = Chromium(Path(profile), SIZE)
        try:
            for name, view in VIEWS.items():
                if view(page, url):
                    made[name] = _smaller(page.screenshot(to / f"{name}.png"))
            assert page.said == [], page.said
        finally:
            page.close()
    return made


def _smaller(path: Path) -> Path:
    """The same picture in few colours."""
    with Image.open(io.BytesIO(path.read_bytes())) as whole:
        whole.convert("RGB").quantize(COLOURS).save(path, optimize=True)
    return path


@contextmanager
def viewer(runs: list[Path]) -> Iterator[str]:
    """`reasoner view` on a free port, by its address."""
    command = [sys.executable, "-m", "reasoner", "view", *map(str, runs), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        try:
            found: Any = re.search(r"http://\S+", running.stderr.readline())  # type: ignore[union-attr]
            yield found.group()
        finally:
            running.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--to", type=Path, default=Path("reasoner/viewing/pictures"))
    given = parser.parse_args()
    given.to.mkdir(parents=True, exist_ok=True)
    with viewer(given.runs) as url:
        for name, path in take(url, given.to).items():
            print(f"{name}: {path}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
