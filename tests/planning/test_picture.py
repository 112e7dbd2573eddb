"""A plan as a picture: well-formed, bars in proportion to the numbers of the plan, what does not fit marked."""

import json
import xml.etree.ElementTree as ElementTree

import pytest
from small_models import save_small_qwen
from typer.testing import CliRunner

from reasoner.cli import app
from reasoner.planning.picture import MEMORY, TIME, of_run, peak_of
from reasoner.registry import UserError

SVG = "{http://www.w3.org/2000/svg}"
HELD = {
    "weights": 4e9,
    "reference": 2e9,
    "optimizer": 8e9,
    "activations": 9e9,
    "logits": 1e9,
    "gradients": 4e9,
}
FITS = {
    "fits": True, "bytes": 24e9, "parts": HELD, "best_seconds": 60.0, "expected_seconds": 120.0, "dollars": 0.5,
}  # fmt: skip
PLAN = {
    "out": "runs/<a & b>",
    "hardware": {"H100": {"memory_gb": 80, "count": 8}, "4090": {"memory_gb": 12, "count": 1}},
    "stages": [
        {"stage": "init", "machines": {"H100": {"fits": True}, "4090": {"fits": True}}},
        {"stage": "sft", "machines": {"H100": FITS, "4090": FITS | {"fits": False, "expected_seconds": 240.0}}},
        {"stage": "evaluate", "machines": {"H100": {"fits": True, "expected_seconds": 30.0}, "4090": {"fits": True}}},
    ],
}  # fmt: skip


def bars(picture: str, css_class: str) -> list[float]:
    root = ElementTree.fromstring(picture)
    return [
        float(r.get("width", "")) for r in root.iter(f"{SVG}rect")
        if r.get("class") == css_class and float(r.get("height", "")) > 11
    ]  # fmt: skip


def texts(picture: str) -> list[str]:
    return [t.text or "" for t in ElementTree.fromstring(picture).iter(f"{SVG}text")]


def test_the_parts_of_a_peak_add_up_to_it():
    assert peak_of(FITS) == {"weights": 6e9, "optimizer": 8e9, "engine": 0.0, "step": 10e9}
    assert sum(peak_of(FITS).values()) == 24e9


def test_bars_are_as_long_as_the_numbers():
    picture = of_run(PLAN)
    width = MEMORY[1] - MEMORY[0]
    # of 80 GB on the one machine; on the other the stage's own 24 GB are the whole width, twice what there is
    assert bars(picture, "weights") == pytest.approx([width * 6 / 80, width * 6 / 24], abs=0.1)
    assert bars(picture, "step") == pytest.approx([width * 10 / 80, width * 10 / 24], abs=0.1)
    time = TIME[1] - TIME[0]
    assert bars(picture, "expected") == pytest.approx([time, time * 30 / 120, time], abs=0.1)
    assert bars(picture, "best") == pytest.approx([time / 2, 1.0, time / 4], abs=0.1)
    lines = [x for x in ElementTree.fromstring(picture).iter(f"{SVG}line") if x.get("class") == "has"]
    assert [float(x.get("x1", "")) for x in lines] == pytest.approx(
        [MEMORY[1], MEMORY[0] + width / 2], abs=0.1
    )
    over = [
        t.text for t in ElementTree.fromstring(picture).iter(f"{SVG}text") if t.get("class") == "value over"
    ]
    assert over == ["24 GB"]
    assert "plan of runs/<a & b>" in texts(picture) and "H100: 8 of 80 GB" in texts(picture)
    assert "init" not in texts(picture)  # it needs nothing and takes no time


def test_a_model_and_a_file_of_another_kind(tmp_path):
    model = save_small_qwen(tmp_path / "model", ["1+2=3\n"] * 9, 300)
    out = tmp_path / "plan.svg"
    done = CliRunner().invoke(
        app, ["plan", str(model), "--hardware", "8xH100,laptop", "--json", "--picture", str(out)], catch_exceptions=False
    )  # fmt: skip
    rows = json.loads(done.output)
    shown = bars(out.read_text(), "weights")
    assert len(shown) == len(rows["answering"]) + len(rows["training"])
    assert "8xH100: 8 of 80 GB, to answer" in texts(out.read_text())
    with pytest.raises(UserError, match=r"ends with \.svg"):
        CliRunner().invoke(
            app, ["plan", str(model), "--picture", "plan.png"], catch_exceptions=False, standalone_mode=False
        )
