"""Noise by place, and the draw of one token per row."""

import math

import pytest
import torch

from reasoner.engine.protocol import place_key
from reasoner.engine.sampling import CACHED, draw, uniform_at

# probabilities 1/2, 1/4, 1/8, 1/8
LOGITS = [math.log(0.5), math.log(0.25), math.log(0.125), math.log(0.125)]
UNIT = torch.ones(1)


def ks_statistic(values: torch.Tensor) -> float:
    """sqrt(n) times the largest distance to the uniform distribution function."""
    ordered, n = values.sort().values, len(values)
    grid = torch.arange(n, dtype=torch.float64)
    distance = torch.maximum((grid + 1) / n - ordered, ordered - grid / n).max()
    return float(distance) * math.sqrt(n)


def test_noise_is_uniform_over_positions_and_over_keys():
    same_key = uniform_at(torch.full((20_000,), 12345), torch.arange(20_000))
    keys = torch.tensor([place_key(0, 0, f"problem {i}", [(3, 0)]) for i in range(20_000)])
    same_position = uniform_at(keys, torch.full((20_000,), 17))
    counted_keys = uniform_at(torch.arange(20_000), torch.zeros(20_000, dtype=torch.long))
    # Kolmogorov: exceeded by chance with probability 0.0007
    for noise in (same_key, same_position, counted_keys):
        assert ks_statistic(noise) < 2.0
        assert noise.dtype == torch.float64 and noise.min() >= 0 and noise.max() < 1


def test_neighbouring_places_are_uncorrelated():
    noise = uniform_at(torch.full((20_000,), -7), torch.arange(20_000)) - 0.5
    correlation = (noise[1:] * noise[:-1]).mean() * 12
    assert abs(correlation) < 4 / math.sqrt(20_000)


def test_noise_is_that_of_splitmix64():
    # Vigna's splitmix64.c, seeded with 1234567: its first five outputs
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    keys = torch.full((5,), 1234567)
    found = uniform_at(keys, torch.arange(5)).tolist()
    assert found == [(x >> 11) * 2.0**-53 for x in published]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_noise_on_cuda_is_that_of_the_cpu():
    keys, positions = torch.randint(-(2**62), 2**62, (1000,)), torch.arange(1000)
    assert torch.equal(uniform_at(keys, positions), uniform_at(keys.cuda(), positions.cuda()).cpu())


def test_noise_depends_on_key_and_position_alone():
    keys, positions = torch.tensor([5, -9, 5, 2**62]), torch.tensor([0, 3, 8, 511])
    whole = uniform_at(keys, positions)
    assert torch.equal(whole.flip(0), uniform_at(keys.flip(0), positions.flip(0)))
    for i in range(4):
        assert uniform_at(keys[i : i + 1], positions[i : i + 1])[0] == whole[i]
    assert len(set(whole.tolist())) == 4


def test_place_key_tells_places_apart():
    keys = {
        place_key(seed, round, problem, path)
        for seed in (0, 1)
        for round in (0, 1)
        for problem in ("a", "b")
        for path in ([], [(3, 0)], [(3, 1)], [(4, 0)], [(3, 0), (1, 0)])
    }
    assert len(keys) == 2 * 2 * 2 * 5
    assert place_key(1, 2, "a", [(3, 0)]) == place_key(1, 2, "a", [(3, 0)])
    assert all(-(2**63) <= k < 2**63 for k in keys)


@pytest.mark.parametrize(
    ("noise", "token"), [(0.0, 0), (0.49, 0), (0.51, 1), (0.74, 1), (0.76, 2), (0.88, 3), (0.999, 3)]
)
def test_draw_inverts_the_cumulative_distribution(noise, token):
    drawn = draw(torch.tensor([LOGITS]), torch.tensor([noise]), UNIT)
    assert drawn.token_B.tolist() == [token]
    assert drawn.logprob_B.item() == pytest.approx(LOGITS[token], abs=1e-6)
    assert drawn.logprob_full_B.item() == pytest.approx(LOGITS[token], abs=1e-6)
    # 1/2 ln 2 + 1/4 ln 4 + 2/8 ln 8
    assert drawn.entropy_B.item() == pytest.approx(1.75 * math.log(2), abs=1e-6)


def test_full_logprob_does_not_depend_on_a_shift_of_the_logits():
    shifted = draw(torch.tensor([LOGITS]) + 30, torch.tensor([0.6]), UNIT)
    assert shifted.logprob_full_B.item() == pytest.approx(math.log(0.25), abs=1e-5)


def test_temperature_zero_takes_the_argmax_and_no_other_row_changes():
    logits = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0]])
    drawn = draw(logits, torch.tensor([0.0, 0.99]), torch.tensor([0.0, 1.0]))
    assert drawn.token_B.tolist() == [1, 2]
    assert drawn.logprob_B[0] == 0
    assert drawn.logprob_B[1].item() == pytest.approx(-math.log(3), abs=1e-6)
    full = 3 - math.log(math.e + math.e**3 + math.e**2)
    assert drawn.logprob_full_B[0].item() == pytest.approx(full, abs=1e-6)


def test_temperature_scales_the_logits():
    # at temperature 1/2 probabilities are squared: 16, 4, 1, 1 of 22
    drawn = draw(torch.tensor([LOGITS] * 4), torch.tensor([0.1, 0.8, 0.93, 0.97]), torch.full((4,), 0.5))
    assert drawn.token_B.tolist() == [0, 1, 2, 3]
    expected = [math.log(16 / 22), math.log(4 / 22), math.log(1 / 22), math.log(1 / 22)]
    assert drawn.logprob_B.tolist() == pytest.approx(expected, abs=1e-6)
    assert drawn.logprob_full_B.tolist() == pytest.approx(LOGITS, abs=1e-6)
    assert drawn.entropy_B.tolist() == pytest.approx([1.75 * math.log(2)] * 4, abs=1e-6)


def reachable(top_k: int, top_p: float, temperature: float = 1.0) -> dict[int, float]:
    """Tokens that 400 evenly spread noises draw, with their sampling log-probabilities."""
    n = 400
    drawn = draw(
        torch.tensor([LOGITS] * n),
        (torch.arange(n) + 0.5) / n,
        torch.full((n,), temperature),
        torch.full((n,), top_k),
        torch.full((n,), top_p),
    )
    return dict(zip(drawn.token_B.tolist(), drawn.logprob_B.tolist(), strict=True))


@pytest.mark.parametrize(
    ("top_k", "top_p", "temperature", "probabilities"),
    [
        (0, 1.0, 1.0, {0: 1 / 2, 1: 1 / 4, 2: 1 / 8, 3: 1 / 8}),
        (1, 1.0, 1.0, {0: 1.0}),
        (2, 1.0, 1.0, {0: 2 / 3, 1: 1 / 3}),
        (0, 0.4, 1.0, {0: 1.0}),
        (0, 0.7, 1.0, {0: 2 / 3, 1: 1 / 3}),
        (0, 0.8, 1.0, {0: 4 / 7, 1: 2 / 7, 2: 1 / 7}),
        (0, 0.0, 1.0, {0: 1.0}),
        (2, 0.6, 1.0, {0: 1.0}),  # of the two that top-k left, the first has mass 2/3
        (2, 0.7, 1.0, {0: 2 / 3, 1: 1 / 3}),
        (2, 1.0, 0.5, {0: 4 / 5, 1: 1 / 5}),
    ],
)
def test_truncation_keeps_and_renormalises(top_k, top_p, temperature, probabilities):
    found = {token: math.exp(logprob) for token, logprob in reachable(top_k, top_p, temperature).items()}
    if len(probabilities) < 3:
        assert found.keys() == probabilities.keys()
        assert found == pytest.approx(probabilities, abs=1e-6)
    else:
        # the order among the last two, which tie, is open
        assert sorted(found.values()) == pytest.approx(sorted(probabilities.values()), abs=1e-6)


def test_truncation_goes_by_rows():
    drawn = draw(
        torch.tensor([LOGITS] * 3),
        torch.full((3,), 0.99),
        torch.ones(3),
        torch.tensor([0, 1, 2]),
        torch.ones(3),
    )
    assert drawn.token_B.tolist() == [3, 0, 1]
    assert drawn.logprob_full_B.exp().tolist() == pytest.approx([1 / 8, 1 / 2, 1 / 4], abs=1e-6)


def test_tokens_of_probability_zero_are_never_drawn():
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]])
    for noise, token in ((0.0, 1), (0.5 - 1e-9, 1), (0.5, 3), (1 - 2**-53, 3)):
        assert draw(logits, torch.tensor([noise], dtype=torch.float64), UNIT).token_B.tolist() == [token]


def test_min_p_leaves_out_what_is_far_less_likely_than_the_first():
    n = 400
    for min_p, probabilities in ((0.0, [1 / 2, 1 / 4, 1 / 8, 1 / 8]), (0.3, [2 / 3, 1 / 3]), (1.0, [1.0])):
        rules = (None, None, torch.full((n,), min_p))
        drawn = draw(torch.tensor([LOGITS] * n), (torch.arange(n) + 0.5) / n, torch.ones(n), *rules)
        counts = torch.bincount(drawn.token_B)
        assert counts.tolist() == pytest.approx([p * n for p in probabilities], abs=1)
        for token, logprob in zip(drawn.token_B.tolist(), drawn.logprob_B.tolist(), strict=True):
            assert logprob == pytest.approx(math.log(probabilities[token]), abs=1e-6)


@pytest.mark.parametrize("vocab_size", [2048, 2049, 5000, 151_936])
def test_large_vocabularies_draw_what_the_plain_sum_says(vocab_size):
    generator = torch.Generator().manual_seed(vocab_size)
    logits = torch.randn(12, vocab_size, generator=generator) * 4
    logits[3, : vocab_size - 1] = -math.inf  # all on the last token
    logits[4, 1:] = -math.inf
    noise = torch.rand(12, generator=generator, dtype=torch.float64)
    noise[5], noise[6] = 0.0, 1 - 2.0**-53
    drawn = draw(logits, noise)
    p = torch.softmax(logits.double(), -1)
    expected = torch.searchsorted(p.cumsum(-1), noise[:, None] * p.sum(-1, keepdim=True), right=True)[:, 0]
    assert drawn.token_B.tolist() == expected.clamp(max=vocab_size - 1).tolist()
    logprobs = torch.log_softmax(logits, -1)
    assert torch.allclose(drawn.logprob_full_B, logprobs.gather(-1, drawn.token_B[:, None])[:, 0], atol=1e-4)
    entropy = torch.special.entr(p).sum(-1).float()
    assert torch.allclose(drawn.entropy_B, entropy, atol=1e-3)


def test_truncation_of_a_large_vocabulary_is_that_of_a_whole_sort():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 4000, generator=generator) * torch.tensor([0.1, 1, 3, 5, 0.1, 1, 3, 5])[:, None]
    top_k = torch.tensor([0, 0, 0, 0, 50, 3000, 50, 3000])
    top_p = torch.tensor([0.95, 0.5, 0.9, 1.0, 0.95, 0.9, 1.0, 0.5])
    noise = torch.rand(8, generator=generator)
    drawn = draw(logits, noise, torch.ones(8), top_k, top_p)
    for i in range(8):
        p, order = torch.softmax(logits[i].double(), -1).sort(descending=True)
        k = int(top_k[i]) or 4000
        p[k:] = 0
        p = p / p.sum()
        keep = p.cumsum(-1) - p < float(top_p[i])
        assert int(drawn.token_B[i]) in order[keep].tolist()
        at = order.tolist().index(int(drawn.token_B[i]))
        assert drawn.logprob_B[i].item() == pytest.approx(math.log(p[at] / p[keep].sum()), abs=1e-4)
    alone = draw(logits[5:6], noise[5:6], torch.ones(1), top_k[5:6], top_p[5:6])
    assert alone.token_B == drawn.token_B[5]


def test_rows_of_a_large_vocabulary_are_drawn_as_if_alone():
    torch.manual_seed(0)
    num_rows, vocab_size = 30, 20_000
    assert CACHED // vocab_size < num_rows  # more than one turn
    logits_BV, noise_B = torch.randn(num_rows, vocab_size) * 3, torch.rand(num_rows, dtype=torch.float64)
    rules = (
        torch.rand(num_rows).round() * 0.8,
        torch.arange(num_rows) % 3 * 40,
        1 - torch.rand(num_rows) / 2,
    )
    for used in ((), rules[:1], rules):
        together = draw(logits_BV, noise_B, *used)
        for i in range(num_rows):
            alone = draw(logits_BV[i : i + 1], noise_B[i : i + 1], *(r[i : i + 1] for r in used))
            assert together.token_B[i] == alone.token_B[0]
            for a, b in zip(together[1:], alone[1:], strict=True):
                assert torch.allclose(a[i], b[0], atol=1e-5)
