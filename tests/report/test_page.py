"""The report is whole in itself, shows what it was given, and lets nothing that a model wrote act."""

import math
from html.parser import HTMLParser

import pytest

from reasoner.ledger import COUNTERS
from reasoner.metrics.reward_quality import CalibrationPoint
from reasoner.report.page import COST_TILES, write_report
from reasoner.report.rows import MetricRow, proportion_row

VOID = {"meta", "circle", "line", "rect", "polyline"}
HOSTILE = '</pre></script><script>alert(1)</script><img src=x onerror="alert(1)">\u202e\x00\ud800\'&amp;'


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = set(), [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def report(tmp_path, **changes):
    given = {
        "title": "run",
        "rows": [],
        "ledger": {},
        "config_yaml": "",
        "history": [],
        "samples": [],
    } | changes
    path = tmp_path / "out" / "report.html"
    write_report(path, **given)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_an_empty_run_gives_an_empty_report(tmp_path):
    page = Page(report(tmp_path))
    assert "h2" not in page.tags


def test_a_full_run_shows_its_numbers(tmp_path):
    rows = [
        proportion_row("e", "pass@1", "greedy", when, subset, c, 200)
        for when, c in (("base", 4), ("sft", 90), ("sft_continued", 110), ("ppo", 143))
        for subset in ("short", "longer")
    ]
    rows.append(MetricRow("e", "maj@8", "majority", "ppo", "short", 0.801, 0.7, 0.9, 200))
    rows.append(MetricRow("p", "auroc", "prm", "sft", "all", 0.907, 0.88, 0.93, 800))
    text = report(
        tmp_path,
        rows=rows,
        ledger={
            "seconds": {"sft": 62.0, "ppo": 3600.0},
            "ppo": {
                "policy": {
                    "decoded": 1_500_000,
                    "trained": 3_000_000,
                    "trajectories_generated": 800,
                    "trajectories_kept": 600,
                },
                "prm": {"scored": 1_500_000},
            },
            "rollout": {"policy": {"decoded": 500_000}},
        },
        config_yaml="seed: 0\n",
        history=[{"stage": "ppo", "step": i, "reward": i / 9} for i in range(9)]
        + [{"method": "prm", "calibration": [CalibrationPoint(0.5, 0.4, 0.3, 0.6, 20)._asdict()]}],
        samples=[
            {"prompt": "1+1?", "steps": [{"text": "1+1=3", "right": False, "prm": 0.07}], "correct": False},
            {"prompt": "2+2?", "steps": [{"text": "2+2=4", "right": True}], "correct": None},
        ],
    )
    shown = "\n".join(Page(text).texts)
    for expected in (
        "2.0 → 71.5 %",
        "64.9–77.3",
        "80.1",
        "0.907",
        "1 h 01 min",
        "2M",
        "1.5M",
        "800",
        "600",
        "tokens generated",
        "tokens scored",
        "tokens trained",
        "reward",
        "seed: 0",
        "1+1=3",
        "0.07",
        "✗ incorrect",
        "· not checked",
        "predicted probability",
    ):
        assert expected in shown, expected


def test_hostile_text_stays_text_everywhere(tmp_path):
    rows = [
        MetricRow(HOSTILE, HOSTILE, method, HOSTILE, HOSTILE, 0.5, 0.4, 0.6, 3)
        for method in ("greedy", HOSTILE)
    ]
    text = report(
        tmp_path,
        title=HOSTILE,
        rows=rows,
        ledger={"seconds": {HOSTILE: 3.0}, HOSTILE: {HOSTILE: {HOSTILE: 1}}},
        config_yaml=HOSTILE,
        history=[{"stage": HOSTILE, "step": i, "loss " + HOSTILE: i} for i in range(3)],
        samples=[
            {"prompt": HOSTILE, "steps": [{"text": HOSTILE, "right": None, "prm": None}], "correct": True}
        ],
    )
    page = Page(text)
    assert not page.tags & {"script", "img", "iframe", "object", "a href"}
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "src"]
    assert all(value.startswith("#") for name, value in page.attributes if name == "href")
    assert "\u202e" not in text
    assert "\x00" not in text
    assert "default-src 'none'" in text


def test_nothing_comes_from_the_network(tmp_path):
    text = report(tmp_path, config_yaml="x: 1")
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert "url(" not in text


def test_very_long_samples_are_cut_and_say_so(tmp_path):
    steps = [{"text": "x" * 10_000, "right": True, "prm": math.nan}] * 100
    text = report(tmp_path, samples=[{"prompt": "p", "steps": steps, "correct": False}])
    assert "6000 more characters" in text
    assert "and 40 more steps" in text
    assert len(text) < 400_000


def test_spikes_are_told_with_what_was_done_and_how_it_went_on(tmp_path):
    calm = {"stage": "ppo", "ppo/grad_norm": 1.0}
    spike = {
        "ppo/spike": "grad_norm 9 where 1 is usual",
        "ppo/spike_answer": "back to round 2",
        "ppo/left_out": [HOSTILE],
    }
    rows = [calm | {"step": 1}, calm | spike | {"step": 2}, calm | {"step": 3}]
    texts = " ".join(Page(report(tmp_path, history=rows)).texts)
    assert "ppo, round 2: grad_norm 9 where 1 is usual; back to round 2: </pre>" in texts
    assert "ppo: 1 rounds without a spike after the last one" in texts
    assert "it ended with a spike" in report(tmp_path, history=rows[:2])
    assert "Spikes" not in report(tmp_path, history=rows[:1])


def test_same_input_same_bytes(tmp_path):
    rows = [proportion_row("e", "pass@1", "greedy", "base", "all", 3, 9)]
    assert report(tmp_path / "a", rows=rows) == report(tmp_path / "b", rows=rows)


@pytest.mark.parametrize("value", [math.nan, 37.5])
def test_numbers_that_are_no_shares_are_not_drawn(tmp_path, value):
    rows = [MetricRow("e", "num_steps", "greedy", "base", "all", value, math.nan, math.nan, 9)]
    page = Page(report(tmp_path, rows=rows))
    assert "figure" not in page.tags and "table" in page.tags
    assert (
        "figure"
        in Page(report(tmp_path, rows=[proportion_row("e", "pass@1", "greedy", "base", "all", 3, 9)])).tags
    )


def test_tiles_are_counters_of_the_ledger():
    assert set(COST_TILES) <= set(COUNTERS)
