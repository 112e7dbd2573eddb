"""The viewer in a real browser: content, keys, no error on the console, nothing foreign asked for, phone and dark."""

import pytest
from chromium import Chromium, found
from PIL import Image
from run_folders import HARM, save_labels, save_run, small_tree, wide_tree
from test_view import Browser

from tests.viewing.pictures import SIZE, take

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(found() is None, reason="no chromium here; apt-get install chromium"),
]
# milliseconds from the click on the first tree of the list to the frame after its 500 nodes are there
ONE_TREE = """new Promise((done) => {
  const start = performance.now();
  document.querySelector(".list button").click();
  const wait = () => document.querySelectorAll(".tree g.node").length === 501
    ? requestAnimationFrame(() => done(performance.now() - start)) : setTimeout(wait, 2);
  wait();
})"""
TREE = "document.querySelectorAll('.tree g.node').length"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    save_run(folder / "run", [small_tree(i) for i in range(4)])
    save_labels(folder / "run", 0, [small_tree(i) for i in range(4)])
    save_run(folder / "harm", [small_tree(0, HARM, f"3 + 4 = 7\n{HARM}", name=HARM)], title=HARM)
    save_run(folder / "large", [wide_tree(500), *(wide_tree(16) for _ in range(2000))])
    made = Browser(folder / "run", folder / "harm", folder / "large")
    yield made
    made.close()


@pytest.fixture
def page(tmp_path):
    made = Chromium(tmp_path / "profile")
    yield made
    made.close()


def assert_quiet(page: Chromium, server: Browser) -> None:
    assert page.said == []
    assert page.asked and all(url.startswith(server.url) for url in page.asked if url != "about:blank")


def test_curves_and_cost_are_drawn(server, page):
    page.open(server.url, "document.querySelector('#training')")
    assert page.evaluate("document.querySelectorAll('.multiples polyline').length") >= 3
    colours = page.evaluate(
        "['run0','run1'].map(c => getComputedStyle(document.querySelector(`.curve.${c}`)).stroke)"
    )
    assert len(set(colours)) == 2 and page.evaluate("document.querySelectorAll('.legend li').length") == 3
    page.open(f"{server.url}/cost", "document.querySelector('.bar')")
    assert_quiet(page, server)


def test_a_tree_is_walked_by_keys(server, page):
    page.open(f"{server.url}/trees?run=run&stage=verify", f"{TREE} === 4")
    assert page.evaluate("document.querySelectorAll('.list tbody tr').length") == 4
    bars = page.evaluate("[...document.querySelectorAll('.tree rect[data-step]')].map(r => r.style.fill)")
    assert len(bars) == 3 and len(set(bars)) == 3  # 0.9, 0.8 and 0.95
    marks = page.evaluate(
        "[...document.querySelectorAll('.tree .mark')].map(m => m.textContent).sort().join('')"
    )
    assert sorted(marks) == sorted("✓✗✂")
    for _ in range(40):  # to the tree by Tab alone
        page.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('tree')"):
            break
    page.press("ArrowRight")
    assert page.evaluate("document.querySelector('.node.here').dataset.node") == "1"
    assert "3 + 4 = 7" not in page.evaluate(
        "document.getElementById('about').textContent"
    )  # its last step is told
    page.press("ArrowDown", "Enter")
    page.wait("document.querySelector('#detail .sample')")
    here = page.evaluate("+document.querySelector('.node.here').dataset.node")
    assert here in (2, 3)
    assert "3 + 4 = 7" in page.evaluate("document.querySelector('#detail .sample').textContent")
    page.press("ArrowLeft")
    assert page.evaluate("document.querySelector('.node.here').dataset.node") == "1"
    box = page.evaluate(
        "(r => [r.x + 2, r.y + 2])(document.querySelector('.tree rect[data-step]').getBoundingClientRect())"
    )
    page.send("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    page.wait("!document.getElementById('tip').hidden")
    tip = page.evaluate("document.getElementById('tip').textContent")
    assert "entropy 0.25" in tip and "prm 0.90" in tip and "V 0.33" in tip and "3 + 4 = 7" in tip
    assert_quiet(page, server)


def test_labels_and_their_posterior_are_shown(server, page):
    page.open(f"{server.url}/trees?run=run&stage=verify", f"{TREE} === 4")
    assert "from the prompt: 1 of 1 right" in page.evaluate("document.getElementById('picture').textContent")
    page.evaluate("document.querySelector('.tree').focus()")
    page.press("ArrowRight", "Enter")
    page.wait("document.querySelector('#detail .counts')")
    counts = page.evaluate("[...document.querySelectorAll('#detail .counts')].map(c => c.textContent)")
    assert counts == [
        "label hard 0.00  label soft 0.00  ·  0 of 1 right, posterior 0.33 (0.01 to 0.84) ",
        "label hard 1.00  label soft 1.00",
    ]
    # the interval, 0.0126 to 0.8419 of 96 pixels, is drawn in the width that it has
    ends = page.evaluate("['x1','x2'].map(x => +document.querySelector('#detail .strip .span').getAttribute(x))")
    assert ends == pytest.approx([2 + 96 * 0.0126, 2 + 96 * 0.8419], abs=0.01)
    page.evaluate(
        "(s => {s.value = 'label soft'; s.dispatchEvent(new Event('change'))})"
        "([...document.querySelectorAll('select')].find(s => [...s.options].some(o => o.value === 'label soft')))"
    )
    bars = page.evaluate("[...document.querySelectorAll('.tree rect[data-step]')].map(r => r.style.fill)")
    assert sorted(bars) == sorted(["rgb(206, 92, 20)", "rgb(44, 103, 216)", "var(--line)"])
    assert_quiet(page, server)


def test_what_a_model_wrote_stays_text(server, page):
    page.open(f"{server.url}/trees?run=harm&stage=verify", f"{TREE} === 4")
    page.evaluate("document.querySelector('.tree').focus()")
    page.press("ArrowRight", "Enter")
    page.wait("document.querySelector('#detail .sample')")
    assert "<script>document.title" in page.evaluate("document.querySelector('#detail').textContent")
    page.open(
        f"{server.url}/chains?run=harm&stage=verify",
        "document.querySelectorAll('.chains tbody tr').length === 4",
    )
    page.evaluate("document.querySelector('.chains button').click()")
    page.wait("document.querySelector('.chains .sample')")
    page.open(server.url, "document.querySelector('#training')")
    assert page.evaluate("document.title") != "owned"
    assert page.evaluate("document.querySelectorAll('img, main script, iframe').length") == 0
    assert_quiet(page, server)


def test_chains_are_filtered(server, page):
    page.open(
        f"{server.url}/chains?run=run&stage=verify",
        "document.querySelectorAll('.chains tbody th').length === 8",
    )
    assert "incorrect" in page.evaluate("document.querySelector('.chains tbody td').textContent")
    page.evaluate(
        "(s => {s.value = 'correct'; s.dispatchEvent(new Event('change'))})(document.querySelectorAll('select')[1])"
    )
    page.wait("document.querySelectorAll('.chains tbody th').length === 4")
    page.evaluate("document.querySelector('input[type=search]').focus()")
    page.send("Input.insertText", text="p2")
    page.wait("document.querySelectorAll('.chains tbody th').length === 1")
    assert_quiet(page, server)


def test_a_phone_in_the_dark_needs_no_scrolling_sideways(server, tmp_path):
    page = Chromium(tmp_path / "profile", (390, 844), dark=True)
    for path, until in (("", "document.querySelector('#training')"), ("trees?run=run&stage=verify", TREE),
                        ("chains?run=run&stage=verify", "document.querySelector('.chains button')")):  # fmt: skip
        page.open(f"{server.url}/{path}", until)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    assert_quiet(page, server)
    page.close()


def test_large_runs_are_drawn_quickly(server, page):
    at = f"{server.url}/trees?run=large&stage=verify"
    page.open(at, f"{TREE} === 501")  # the tokenizer is loaded once
    page.open(server.url, "document.querySelector('#training')")
    listed = page.open(at, "document.querySelectorAll('.list tbody tr').length === 2001")
    page.open(server.url, "document.querySelector('#training')")
    drawn = page.open(at, f"{TREE} === 501")
    page.evaluate("document.querySelectorAll('.list button')[1].click()")
    page.wait(f"{TREE} === 17")
    tree = page.evaluate(ONE_TREE) / 1000
    print(
        f"2,001 trees listed in {listed:.2f} s, with the first drawn {drawn:.2f} s, a tree of 500 nodes in {tree:.2f} s"
    )
    assert listed < 2 and tree < 1


def test_the_pictures_of_the_documents_can_be_taken_again(server, tmp_path):
    made = take(server.url, tmp_path)
    assert list(made) == ["curves", "tree", "chains", "cost"]  # these runs have no test-time methods
    for path in made.values():
        with Image.open(path) as picture:
            assert picture.size == SIZE and picture.mode == "P" and len(picture.getcolors()) > 20
