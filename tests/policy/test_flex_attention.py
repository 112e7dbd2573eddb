"""Packed trees by torch's FlexAttention: what the dense mask gives, outputs and gradients.

Here the kernel that torch has for tracing runs (all pairs, with gradients), and marked `slow` the one that it compiles for
CPUs (by blocks, without them); marked `gpu` the one that training uses.
"""

import shutil
from functools import partial

import pytest
import torch
from small_models import branching_tree, make_tree, small_lm
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention import flex_attention as torchs

from reasoner.policy import flex_attention
from reasoner.policy.attention import tree_mask
from reasoner.policy.flex_attention import BLOCK, KERNELS, block_mask, flexes, to_blocks
from reasoner.policy.heads import Likelihood, PolicyNet, ScoreNet
from reasoner.policy.packing import Packed, pack
from reasoner.policy.recompute import recompute_layers
from reasoner.policy.split import split_states
from tests.policy.test_packing import trees
from tests.policy.test_split import grown

CPU = torch.device("cpu")
WIDE = {"head_dim": 16}
KINDS = {
    "qwen2": WIDE,
    "llama": {**WIDE, "hidden_size": 48, "num_attention_heads": 6},
    "qwen3": WIDE,
    "granite": {**WIDE, "attention_multiplier": 0.3},
}


def long_tree(length: int = 150):
    """A chain that branches in the middle and at its end, each branch longer than a block; single tokens; an empty node."""
    ids = [1 + i % 50 for i in range(length)]
    return make_tree(
        [1, 2, 3], (0, 3, ids, []), (1, length // 2, ids[::-1], []), (1, length, ids, []),
        (2, 20, [7], []), (4, 1, [], []), (5, 0, [8], []),
    )  # fmt: skip


def rows(name: str) -> Packed:
    part = [tree for tree, _, _ in split_states(grown(3, 40), [], 40)]
    return {
        "several trees in a row": lambda: pack(trees(), row_tokens=64),
        "padded": lambda: pack([*trees(), branching_tree(), grown(1)], row_tokens=40),
        "longer than a block": lambda: pack([long_tree(), branching_tree()], row_tokens=600),
        "parts of a tree": lambda: pack(part, row_tokens=64),
    }[name]()


@pytest.fixture(autouse=True)
def any_width(monkeypatch):
    monkeypatch.setattr(flex_attention, "LEAST_WIDTH", 0)


@pytest.fixture
def calls(monkeypatch) -> list:
    """One entry for each call of the kernel on this CPU, which training on one would not take."""
    found = []

    def kernel(*args, **kwargs):
        found.append(args[0].shape)
        return torchs.flex_attention(*args, **kwargs)

    monkeypatch.setitem(KERNELS, "cpu", lambda: kernel)
    # it refuses gradients on a CPU, where the compiled kernel has none; the plain one has
    monkeypatch.setattr(torchs, "_validate_device", lambda *_: None)
    return found


def logprobs(model, p: Packed) -> torch.Tensor:
    return PolicyNet(model)(p.ids_BT, p.positions_BT, p.tour_B2T, p.source_N, p.target_N)[0]


def by_likelihood(model, p: Packed) -> torch.Tensor:
    at_S = p.target_N[::3]
    return ScoreNet(model, Likelihood())(p.ids_BT, p.positions_BT, p.tour_B2T, at_S, p.source_N, p.target_N)


def learned(read, model, p: Packed) -> tuple[torch.Tensor, list[torch.Tensor]]:
    values = read(model, p)
    loss = (values * torch.linspace(-1, 1, len(values))).sum()
    return values.detach(), list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))


def assert_same(found, expected, least: float = 1e-4) -> None:
    assert torch.allclose(found[0], expected[0], atol=1e-5, rtol=1e-5)
    compared = 0
    for a, b in zip(found[1], expected[1], strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            assert torch.allclose(a, b, atol=1e-5 * max(1.0, float(b.abs().max())), rtol=0)
            compared += float(b.abs().max()) > least
    assert compared > 10


def test_blocks_by_hand():
    """A prompt of one block, two branches of one: each sees the whole prompt, itself in part, and not the other."""
    p = pack(
        [make_tree([1] * BLOCK, (0, BLOCK, [2] * BLOCK, []), (0, BLOCK, [3] * BLOCK, []))],
        row_tokens=3 * BLOCK,
        cost=10**9,
    )
    mask = block_mask(p.tour_B2T)
    assert mask.kv_num_blocks.tolist() == [[[1, 1, 1]]] and mask.full_kv_num_blocks.tolist() == [[[0, 1, 1]]]
    assert mask.kv_indices[0, 0, :, 0].tolist() == [0, 1, 2] and mask.full_kv_indices[
        0, 0, 1:, 0
    ].tolist() == [0, 0]
    assert mask.to_dense().tolist() == [[[[1, 0, 0], [1, 1, 0], [1, 0, 1]]]]


@pytest.mark.parametrize(
    "name", ["several trees in a row", "padded", "longer than a block", "parts of a tree"]
)
def test_blocks_are_those_that_torch_finds_in_the_whole_mask(name):
    p = rows(name)
    ids, positions, mask = to_blocks(p.ids_BT, p.positions_BT, p.tour_B2T)
    width = p.ids_BT.shape[1]
    assert (
        ids.shape == positions.shape == mask.shape[::2]
        and ids.shape[1] % BLOCK == 0 <= ids.shape[1] - width < BLOCK
    )
    dense = torchs.create_mask(mask.mask_mod, len(ids), 1, ids.shape[1], ids.shape[1], "cpu")
    assert torch.equal(dense[..., :width, :width], tree_mask(p.tour_B2T))
    assert torch.equal(
        dense[..., width:, :], torch.eye(ids.shape[1], dtype=torch.bool)[width:].expand(len(ids), 1, -1, -1)
    )
    expected = torchs.create_block_mask(mask.mask_mod, len(ids), 1, ids.shape[1], ids.shape[1], "cpu")
    for kind in ("kv", "full_kv", "q", "full_q"):
        assert torch.equal(getattr(mask, f"{kind}_num_blocks"), getattr(expected, f"{kind}_num_blocks"))
        counts = getattr(mask, f"{kind}_num_blocks")[..., None]
        listed = torch.arange(ids.shape[1] // BLOCK) < counts
        a, b = (getattr(m, f"{kind}_indices") for m in (mask, expected))
        assert torch.equal(a[listed], b[listed])


@pytest.mark.parametrize(
    ("kind", "name", "recompute"),
    [
        *((kind, "longer than a block", False) for kind in KINDS),
        *(("qwen2", name, False) for name in ("several trees in a row", "padded", "parts of a tree")),
        ("qwen2", "longer than a block", True),
        ("llama", "parts of a tree", True),
    ],
)
def test_outputs_and_gradients_are_those_of_the_mask(kind, name, recompute, request):
    model, p = small_lm(kind, max_position_embeddings=512, **KINDS[kind]), rows(name)
    expected = learned(logprobs, model, p)
    calls = request.getfixturevalue("calls")
    if recompute:
        recompute_layers(model)
    assert_same(learned(logprobs, model, p), expected)
    assert len(calls) == (4 if recompute else 2)  # of two layers
    assert all(shape[0] == len(p.ids_BT) and shape[2] % BLOCK == 0 for shape in calls)


def test_a_reward_model_that_reads_likelihoods(request):
    model, p = small_lm("qwen2", **WIDE), rows("several trees in a row")
    expected = learned(by_likelihood, model, p)
    calls = request.getfixturevalue("calls")
    assert_same(learned(by_likelihood, model, p), expected)
    assert len(calls) == 2


def test_in_bfloat16_within_its_rounding(request):
    """Autocast gives queries, keys and values one format, as it does before torch's other kernels."""
    model, p = small_lm("qwen2", initializer_range=0.1, **WIDE), rows("several trees in a row")
    exact = logprobs(model, p)
    calls = request.getfixturevalue("calls")
    with torch.autocast("cpu", torch.bfloat16):
        rounded = logprobs(model, p)
    assert len(calls) == 2 and 1e-5 < (rounded - exact).abs().max() < 0.05


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("qwen2", {}),  # heads of 8
        ("gpt2", {"n_embd": 128}),
        ("mistral", {**WIDE, "sliding_window": 4}),
        ("qwen2", {**WIDE, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
        ("gemma2", {**WIDE, "sliding_window": 4, "attn_logit_softcapping": 1.5}),
        ("gpt_oss", {**WIDE, "num_local_experts": 2, "num_experts_per_tok": 1}),
    ],
)
def test_models_that_are_left_to_masks(kind, options, calls):
    model, p = small_lm(kind, **options), rows("several trees in a row")
    assert not flexes(model, CPU, 64)
    logprobs(model, p)
    assert not calls


def test_dropout_and_other_devices_are_left_to_masks(calls):
    model = small_lm("qwen2", attention_dropout=0.1, **WIDE)
    assert (
        flexes(model, CPU, 64)
        and not flexes(model.train(), CPU, 64)
        and not flexes(model.eval(), torch.device("meta"), 64)
    )


def test_short_rows_are_left_to_masks(calls, monkeypatch):
    monkeypatch.setattr(flex_attention, "LEAST_WIDTH", 200)
    model = small_lm("qwen2", max_position_embeddings=1024, **WIDE)
    short, long = (pack([long_tree(length)], row_tokens=1) for length in (20, 90))
    assert short.ids_BT.shape[1] < 200 <= long.ids_BT.shape[1]
    logprobs(model, short)
    assert not calls
    logprobs(model, long)
    assert calls


@pytest.mark.slow
def test_it_is_compiled_for_all_lengths(calls, monkeypatch):
    """Traced with gradients, not made into a kernel, which a CPU has none of; the options are ours."""
    graphs = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=graphs))
    kernel = flex_attention._compiled.__wrapped__()
    monkeypatch.setitem(KERNELS, "cpu", lambda: kernel)
    model, traced = small_lm("qwen2", max_position_embeddings=1024, num_hidden_layers=1, **WIDE), []
    for length in (60, 150, 90, 200):
        learned(logprobs, model, pack([long_tree(length)], row_tokens=1))
        traced.append(graphs.frame_count)
    assert traced[0] > 0 and traced[1] == traced[-1] and not calls


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler")
def test_a_compiled_kernel_reads_our_blocks(monkeypatch):
    """That for CPUs, of one length: torch 2.13 makes no code for it that takes all."""
    model, p = small_lm("qwen2", max_position_embeddings=1024, **WIDE), pack([long_tree(250)], row_tokens=1)
    with torch.no_grad():
        expected = logprobs(model, p)
        kernel = torch.compile(torchs.flex_attention, dynamic=False)
        monkeypatch.setitem(KERNELS, "cpu", lambda: kernel)
        assert torch.allclose(logprobs(model, p), expected, atol=1e-5, rtol=1e-5)
        blocks = to_blocks(p.ids_BT, p.positions_BT, p.tour_B2T)[2].to_dense()
        assert blocks.shape[-1] == 6 and 0 < blocks.sum() < 6 * 7 / 2
        # a block fewer is another result: it goes by the blocks, not by all pairs
        listed = flex_attention._listed
        monkeypatch.setattr(flex_attention, "_listed", lambda x: (listed(x)[0].clamp(max=1), listed(x)[1]))
        assert not torch.allclose(logprobs(model, p), expected, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu_outputs_and_gradients_are_those_of_the_mask(kind, monkeypatch):
    model = small_lm(kind, max_position_embeddings=512, **KINDS[kind]).cuda()
    packed = [
        pack(some, "cuda", row_tokens=600)
        for some in ([long_tree(), branching_tree()], [long_tree(90), *trees()])
    ]

    def all_of() -> list:
        return [learned(lambda m, p: logprobs(m, p).cpu(), model, p) for p in packed]

    assert flexes(model, torch.device("cuda"), 600)
    found = all_of()
    monkeypatch.delitem(KERNELS, "cuda")
    for a, b in zip(found, all_of(), strict=True):
        assert torch.allclose(a[0], b[0], atol=1e-3)
        for x, y in zip(a[1], b[1], strict=True):
            assert torch.allclose(x, y, atol=2e-3 * max(1.0, float(y.abs().max())), rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_no_square_of_a_row_is_held(monkeypatch):
    model, p = (
        small_lm("qwen2", max_position_embeddings=8192, **WIDE).cuda(),
        pack([long_tree(4000)], "cuda", row_tokens=1),
    )

    def peak() -> int:
        learned(lambda m, p: logprobs(m, p).cpu(), model, p)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        learned(lambda m, p: logprobs(m, p).cpu(), model, p)
        return torch.cuda.max_memory_allocated() - before

    by_blocks = peak()
    monkeypatch.delitem(KERNELS, "cuda")
    assert peak() - by_blocks > 0.8 * p.ids_BT.shape[1] ** 2  # a byte a pair
