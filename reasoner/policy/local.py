"""The engine in this process: any transformers causal LM, slots refilled as sequences end, prefixes computed once.

A running sequence holds a slot of the KV cache. Admission copies what the radix cache knows of its prefix,
prefills the rest but for the last token, and from then on every row is fed one token a step: the last
prefix token is simply the first of these. Rows 0 to n - 1 are always the running ones.

Shape suffixes: R rows (slots), T tokens, S positions, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import torch

from reasoner.ledger import Ledger
from reasoner.policy.engine import Completion, Request
from reasoner.policy.kv import SlotCache
from reasoner.policy.logprobs import sequence_logprobs
from reasoner.policy.radix import RadixCache
from reasoner.policy.sampling import draw, uniform_at

PREFILL_TOKENS = 4096  # per forward pass, padding included
WIDTH_STEP = 32  # key positions are read in multiples of this, so that shapes repeat


class LocalEngine:
    """Continuous batching over `num_slots` rows of at most `max_context` tokens; `kv_bytes` bounds the prefix cache."""

    def __init__(
        self,
        model,
        eos_ids: Iterable[int],
        num_slots: int = 128,
        max_context: int = 512,
        kv_bytes: int = 1 << 30,
        ledger: Ledger | None = None,
        name: str = "policy",
    ):
        self.model = model
        self.device = next(model.parameters()).device
        self.vocab_size = model.config.vocab_size
        self.max_context = max_context
        self.num_slots = num_slots
        self.ledger, self.name = ledger, name
        self.weights_version = 0
        self.cache = SlotCache(model.config, num_slots, max_context, model.dtype, self.device)
        self.prefixes = RadixCache(kv_bytes)
        self.pending: deque[Request] = deque()
        self.cancelled: set[Hashable] = set()
        self.finished: list[Completion] = []
        self.rows: list[Request] = []
        self.known: list[int] = []  # per row, how many leading tokens the prefix cache already holds
        self.stop_tables: dict[frozenset[int], int] = {}
        eos_V = torch.zeros(self.vocab_size, dtype=torch.bool, device=self.device)
        eos_V[list(eos_ids)] = True
        self.stop_KV = eos_V[None]
        self.stop_tables[frozenset()] = 0
        long = {"dtype": torch.long, "device": self.device}
        self.token_R = torch.zeros(num_slots, **long)
        self.position_R = torch.zeros(num_slots, **long)  # where the token above stands
        self.start_R = torch.zeros(num_slots, **long)  # the prefix's length
        self.limit_R = torch.zeros(num_slots, **long)  # the position that may not be reached
        self.place_R = torch.zeros(num_slots, **long)
        self.stop_R = torch.zeros(num_slots, **long)
        self.top_k_R = torch.zeros(num_slots, **long)
        self.temperature_R = torch.ones(num_slots, device=self.device)
        self.top_p_R = torch.ones(num_slots, device=self.device)
        self.out_RS = torch.zeros(num_slots, max_context, **long)
        self.out_numbers_3RS = torch.zeros(3, num_slots, max_context, device=self.device)
        self.per_row = [
            self.token_R, self.position_R, self.start_R, self.limit_R, self.place_R,
            self.stop_R, self.top_k_R, self.temperature_R, self.top_p_R, self.out_RS,
        ]  # fmt: skip

    def submit(self, requests: Iterable[Request]) -> None:
        requests = list(requests)
        for request in requests:
            if not request.prefix_ids:
                raise ValueError(
                    f"request {request.id!r} has an empty prefix; expected at least one token (a BOS will do)"
                )
        self.pending.extend(requests)

    def cancel(self, ids: Iterable[Hashable]) -> None:
        """Pending requests are dropped, running ones end with their next token; both come back as `cancelled`."""
        # an id of neither kind must not wait for a later request that is called the same
        self.cancelled.update({r.id for r in (*self.pending, *self.rows)}.intersection(ids))

    def poll(self) -> list[Completion]:
        """Run until something finishes; an empty list means that nothing is left to do."""
        with torch.inference_mode():
            while not self.finished and (self.rows or self.pending):
                self._refill()
                if self.rows:
                    self._decode()
        done, self.finished = self.finished, []
        return done

    def sample(self, requests: Sequence[Request]) -> list[Completion]:
        """Submit and wait for all, in the order of the requests; ids must be unique among them."""
        if len({r.id for r in requests}) != len(requests):
            raise ValueError("request ids repeat; expected each id once in a call of sample()")
        self.submit(requests)
        by_id: dict[Hashable, Completion] = {}
        while len(by_id) < len(requests):
            by_id.update((c.id, c) for c in self.poll())
        return [by_id[r.id] for r in requests]

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability of each token but the first, under the full softmax at temperature 1."""
        self._count(scored=sum(map(len, sequences)))
        with torch.inference_mode():
            return sequence_logprobs(self.model, sequences)

    def load_weights(self, version: int, state: dict | None = None) -> None:
        """Take `state` (or the shared module as it now is) as this version; all KV of other versions is dropped."""
        if self.rows or self.pending:
            raise RuntimeError(
                f"{len(self.rows) + len(self.pending)} requests are under way; weights change only between them"
            )
        if state is not None:
            self.model.load_state_dict(state)
        self.prefixes.clear()
        self.weights_version = version

    def _refill(self) -> None:
        """Give free slots to pending requests: copy the known prefix, prefill the rest."""
        admitted: list[int] = []
        while self.pending and len(self.rows) < self.num_slots:
            request = self.pending.popleft()
            reason = self._refusal(request)
            if reason:
                self.finished.append(self._completion(request, (), np.zeros((3, 0)), reason))
                continue
            slot = len(self.rows)
            self.rows.append(request)
            self.known.append(0)
            admitted.append(slot)
            start = len(request.prefix_ids)
            s = request.sampling
            self.token_R[slot] = request.prefix_ids[-1]
            self.position_R[slot] = start - 1
            self.start_R[slot] = start
            self.limit_R[slot] = min(start + request.max_tokens, self.max_context)
            self.place_R[slot] = request.place
            self.stop_R[slot] = self._stop_table(request.stop_ids)
            self.temperature_R[slot], self.top_k_R[slot], self.top_p_R[slot] = s.temperature, s.top_k, s.top_p
        if admitted:
            self._prefill(admitted)
            self.shaped = bool((self.top_k_R > 0).any() or (self.top_p_R < 1).any())

    def _refusal(self, request: Request) -> str:
        if request.id in self.cancelled:
            self.cancelled.discard(request.id)
            return "cancelled"
        return "context" if len(request.prefix_ids) >= self.max_context else ""

    def _prefill(self, slots: list[int]) -> None:
        """Fill the slots with the keys and values of their prefixes but for the last token, each distinct one computed once."""
        first: dict[tuple[int, ...], int] = {}
        for slot in slots:
            first.setdefault(tuple(self.rows[slot].prefix_ids[:-1]), slot)
        missing: list[tuple[int, int, tuple[int, ...]]] = []
        for prefix, slot in first.items():
            known, segments = self.prefixes.match(prefix)
            self.cache.write(slot, segments)
            self._count(reused=known)
            if known < len(prefix):
                missing.append((known, slot, prefix))
        missing.sort(key=lambda m: len(m[2]) - m[0])
        while missing:
            length = len(missing[-1][2]) - missing[-1][0]
            chunk = [missing.pop() for _ in range(min(len(missing), max(1, PREFILL_TOKENS // length)))]
            self._prefill_chunk(chunk)
        for slot in slots:
            prefix = tuple(self.rows[slot].prefix_ids[:-1])
            if first[prefix] != slot:
                # from its twin's slot: the prefix cache may have dropped it already
                self.cache.move(first[prefix], slot, len(prefix))
                self._count(reused=len(prefix))
            self.known[slot] = self.prefixes.match(prefix)[0]

    def _prefill_chunk(self, chunk: list[tuple[int, int, tuple[int, ...]]]) -> None:
        longest = max(len(prefix) - known for known, _, prefix in chunk)
        ids_RT = torch.zeros(len(chunk), longest, dtype=torch.long)
        for row, (known, _, prefix) in enumerate(chunk):
            ids_RT[row, : len(prefix) - known] = torch.tensor(prefix[known:])
        known_R = torch.tensor([known for known, _, _ in chunk])
        slots_R = torch.tensor([slot for _, slot, _ in chunk], device=self.device)
        # padding is written past a row's end, where decoding overwrites it before it is read
        positions_RT = (known_R[:, None] + torch.arange(longest)).clamp_(max=self.max_context - 1)
        positions_RT = positions_RT.to(self.device)
        width = self._width(max(len(prefix) for _, _, prefix in chunk))
        self.cache.select(slots_R, positions_RT, width)
        seen_RTS = torch.arange(width, device=self.device) <= positions_RT[..., None]
        self._forward(ids_RT.to(self.device), positions_RT, seen_RTS)
        for known, slot, prefix in chunk:
            self.prefixes.insert(prefix, self.cache.read(slot, known, len(prefix)), known)
        self._count(prefilled=sum(len(prefix) - known for known, _, prefix in chunk), forwards=1)

    def _decode(self) -> None:
        """One token for every running row."""
        n = len(self.rows)
        position_R1 = self.position_R[:n, None]
        width = self._width(int(position_R1.max()) + 1)
        self.cache.select(n, position_R1, width)
        seen_R1S = torch.arange(width, device=self.device) <= position_R1[..., None]
        hidden_R1D = self._forward(self.token_R[:n, None], position_R1, seen_R1S)
        logits_RV = self.model.lm_head(hidden_R1D[:, 0])
        at_R = self.position_R[:n] + 1
        drawn = draw(
            logits_RV,
            uniform_at(self.place_R[:n], at_R),
            self.temperature_R[:n],
            self.top_k_R[:n] if self.shaped else None,
            self.top_p_R[:n] if self.shaped else None,
        )
        out_R = at_R - self.start_R[:n]
        row_R = torch.arange(n, device=self.device)
        self.out_RS[row_R, out_R] = drawn.token_B
        self.out_numbers_3RS[:, row_R, out_R] = torch.stack(
            (drawn.logprob_B.float(), drawn.logprob_full_B, drawn.entropy_B)
        )
        self.token_R[:n] = drawn.token_B
        self.position_R[:n] = at_R
        nan_R = drawn.entropy_B.isnan()
        done_R = self.stop_KV[self.stop_R[:n], drawn.token_B] | (at_R + 1 >= self.limit_R[:n]) | nan_R
        self._count(decoded=n, forwards=1, slots_busy=n, slots_idle=self.num_slots - n)
        done = done_R.nonzero()[:, 0].tolist()
        if self.cancelled:
            done = sorted({*done, *(i for i, r in enumerate(self.rows) if r.id in self.cancelled)})
        for row in reversed(done):
            self._finish(row, bool(nan_R[row]), bool(done_R[row]))

    def _finish(self, row: int, is_nan: bool, ended: bool) -> None:
        """Hand out a row's completion, keep its keys and values, and move the last row into its slot."""
        request = self.rows[row]
        end, start = int(self.position_R[row]), len(request.prefix_ids)
        count = end + 1 - start
        tokens = self.out_RS[row, :count].tolist()
        last = tokens[-1]
        if is_nan:
            reason = "nan"
        elif not ended:
            reason = "cancelled"
        elif self.stop_KV[0, last]:
            reason = "eos"
        else:
            reason = "stop" if self.stop_KV[self.stop_R[row], last] else "length"
        self.cancelled.discard(request.id)
        numbers = self.out_numbers_3RS[:, row, :count].cpu().numpy()
        self.finished.append(self._completion(request, tuple(tokens), numbers, reason))
        whole = [*request.prefix_ids, *tokens[:-1]]  # the last token was never fed
        if not is_nan and self.known[row] < len(whole):
            self.prefixes.insert(whole, self.cache.read(row, self.known[row], len(whole)), self.known[row])
        if is_nan:
            self.cache.clear(row)  # a masked NaN still spreads: 0 · NaN is NaN
        tail = len(self.rows) - 1
        if row != tail:
            self.cache.move(tail, row, int(self.position_R[tail]))
            for tensor in self.per_row:
                tensor[row] = tensor[tail]
            self.out_numbers_3RS[:, row] = self.out_numbers_3RS[:, tail]
            self.rows[row], self.known[row] = self.rows[tail], self.known[tail]
        self.rows.pop()
        self.known.pop()

    def _completion(self, request: Request, tokens: tuple[int, ...], numbers, reason: str) -> Completion:
        logprobs, full, entropy = (tuple(x) for x in numbers.tolist())
        return Completion(request.id, tokens, logprobs, full, entropy, reason, self.weights_version)

    def _forward(self, ids_RT, positions_RT, seen_RTS) -> torch.Tensor:
        """Last hidden states; a bool mask of four dimensions is taken by every architecture as it is."""
        return self.model.base_model(
            input_ids=ids_RT,
            position_ids=positions_RT,
            attention_mask=seen_RTS[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state

    def _stop_table(self, stop_ids: frozenset[int]) -> int:
        if stop_ids not in self.stop_tables:
            row_V = self.stop_KV[0].clone()
            row_V[list(stop_ids)] = True
            self.stop_tables[stop_ids] = len(self.stop_KV)
            self.stop_KV = torch.cat((self.stop_KV, row_V[None]))
        return self.stop_tables[stop_ids]

    def _width(self, needed: int) -> int:
        return min(self.max_context, -(-needed // WIDTH_STEP) * WIDTH_STEP)

    def _count(self, **counters: int) -> None:
        if self.ledger is not None:
            self.ledger.add(self.name, **counters)
