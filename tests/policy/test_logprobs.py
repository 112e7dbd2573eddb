"""Chunked log-probabilities against a plain log-softmax."""

import pytest
import torch
from small_models import small_lm

from reasoner.policy import logprobs
from reasoner.policy.logprobs import sequence_logprobs, token_logprobs

NUM_TOKENS, WIDTH, VOCAB = 23, 6, 10


@pytest.mark.parametrize("chunk_elements", [1 << 24, 10, 40, 1])  # all at once, 1, 4 and 1 tokens a chunk
@pytest.mark.parametrize("with_entropy", [False, True])
def test_token_logprobs_and_gradients(monkeypatch, chunk_elements, with_entropy):
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", chunk_elements)
    torch.manual_seed(0)
    head = torch.nn.Linear(WIDTH, VOCAB)
    hidden = torch.randn(NUM_TOKENS, WIDTH)
    targets = torch.randint(0, VOCAB, (NUM_TOKENS,))
    weights = torch.randn(NUM_TOKENS)

    ours = hidden.clone().requires_grad_()
    picked, entropy = token_logprobs(ours, head, targets, with_entropy)
    loss = (weights * picked).sum() + (entropy.square().sum() if with_entropy else 0)
    gradients = torch.autograd.grad(loss, [ours, *head.parameters()])

    plain = hidden.clone().requires_grad_()
    table = torch.log_softmax(head(plain), -1)
    expected = table[torch.arange(NUM_TOKENS), targets]
    expected_entropy = torch.distributions.Categorical(logits=table).entropy()
    loss = (weights * expected).sum() + (expected_entropy.square().sum() if with_entropy else 0)
    expected_gradients = torch.autograd.grad(loss, [plain, *head.parameters()])

    assert torch.allclose(picked, expected, atol=1e-6)
    assert (entropy is not None) == with_entropy
    if with_entropy:
        assert torch.allclose(entropy, expected_entropy, atol=1e-6)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(found, wanted, atol=1e-5)


def test_no_chunk_of_logits_is_larger_than_allowed(monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 4 * VOCAB + 3)
    head = torch.nn.Linear(WIDTH, VOCAB)
    sizes = []
    head.register_forward_hook(lambda module, args, out: sizes.append(out.shape[0]))
    with torch.no_grad():
        token_logprobs(torch.randn(NUM_TOKENS, WIDTH), head, torch.zeros(NUM_TOKENS, dtype=torch.long))
    assert sizes == [4, 4, 4, 4, 4, 3]


def test_no_tokens():
    head = torch.nn.Linear(WIDTH, VOCAB)
    picked, entropy = token_logprobs(torch.zeros(0, WIDTH), head, torch.zeros(0, dtype=torch.long), True)
    assert picked.shape == (0,) and entropy.shape == (0,)


@pytest.mark.parametrize("tokens_per_batch", [8192, 1, 12])
def test_sequence_logprobs_of_uneven_sequences(tokens_per_batch):
    model = small_lm("qwen2")
    sequences = [[1, 2, 3, 4, 5], [7], [], [9, 9], [5, 4, 3, 2, 1, 2, 3, 4, 5], [1, 2, 3, 4, 6]]
    with torch.no_grad():
        found = sequence_logprobs(model, sequences, tokens_per_batch)
        assert found[1] == [] and found[2] == []
        for ids, values in zip(sequences, found, strict=True):
            if len(ids) > 1:
                table = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
                expected = [float(table[i, t]) for i, t in enumerate(ids[1:])]
                assert values == pytest.approx(expected, abs=1e-5)
