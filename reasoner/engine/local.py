"""The engine in this process: any transformers causal LM, slots refilled as sequences end, prefixes computed once.

A running sequence holds a slot of the KV cache. Admission copies what the radix cache knows of its prefix,
prefills the rest but for the last token, and from then on every row is fed one token a step: the last
prefix token is simply the first of these. Rows 0 to n - 1 are always the running ones.

Shape suffixes: R rows (slots), T tokens, S positions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from reasoner.engine import decoder
from reasoner.engine.groups import grouped, moves
from reasoner.engine.kv import SlotCache, bytes_per_token, kv_shape
from reasoner.engine.mixed_adapters import MixedAdapters
from reasoner.engine.outputs import Outputs
from reasoner.engine.prefill import PREFILL_TOKENS, Span, chunks, waves
from reasoner.engine.protocol import Completion, Request, refusal
from reasoner.engine.radix import RadixCache
from reasoner.engine.sampling import draw, uniform_at
from reasoner.engine.stopping import EOS, LOOK, STOP, StopStrings, StopTable, tail_tokens
from reasoner.ledger import Ledger
from reasoner.policy.adapters import activate, causal_lm
from reasoner.policy.attention import Seen, evaluating, slot_attention
from reasoner.policy.logprobs import LogitHead, sequence_logprobs
from reasoner.registry import UserError

KEPT = 32  # sequences for each slot, whose keys and values the prefix cache keeps at most


class LocalEngine:
    """Continuous batching over `num_slots` rows of at most `max_context` tokens.

    `kv_bytes` and KEPT bound the prefix cache, `slot_bytes` the keys and values of running sequences: fewer slots are made
    where they don't fit, and a sequence for which even one is too small ends with `memory`. Memory for running sequences is
    taken as they grow (SlotCache) and given back when none is left; where the device has none, a UserError ends all.
    `model` is a causal LM, a PEFT model or an Adapter; `tokenizer` is needed for stop strings only.
    """

    def __init__(
        self,
        model: Any,
        eos_ids: Iterable[int],
        num_slots: int = 128,
        max_context: int = 512,
        kv_bytes: int = 1 << 30,
        ledger: Ledger | None = None,
        name: str = "policy",
        slot_bytes: int | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ):
        self.given = model
        self.model = causal_lm(model)
        self.device: torch.device = self.model.device
        self.head = LogitHead(self.model)
        self.vocab_size = self.head.vocab_size
        self.max_context = max_context
        self.ledger, self.name = ledger, name
        self.weights_version = 0
        self.install: Callable[[int], None] | None = None  # brings the weights here, where others are trained
        self.token_bytes = bytes_per_token(self.model)
        self.layer_bytes = self.token_bytes / kv_shape(self.model)[0]
        self.num_slots, self.length = num_slots, max_context
        if slot_bytes is not None:
            self.num_slots = max(1, min(num_slots, slot_bytes // (self.token_bytes * max_context)))
            self.length = min(max_context, slot_bytes // (self.token_bytes * self.num_slots))
        self.cache = SlotCache(self.model, self.num_slots, self.length)
        self.prefixes = RadixCache(min(kv_bytes, KEPT * self.num_slots * self.length * self.token_bytes))
        self.adapters = MixedAdapters(self.model)
        self.strings = StopStrings(tokenizer, self.vocab_size)
        self.stops = StopTable(eos_ids, self.strings, self.device)
        self.decoder: decoder.Decoder | None = None  # made at the first step under new weights
        self.pending: deque[Request] = deque()
        self.finished: list[Completion] = []
        self.rows: list[Request] = []
        self.known: list[int] = []  # per row, how many leading tokens the prefix cache already holds
        self.at: list[int] = []  # per row, where its last token stands
        self.group_size = num_slots  # rows of like length that attention reads together
        self.unclaimed = 0  # tokens prefilled for requests that are not admitted yet
        # token, its position, the prefix's length, the position that may not be reached, place, kind of stop, top-k
        self.ints_7R = torch.zeros(7, self.num_slots, dtype=torch.long, device=self.device)
        self.floats_3R = torch.ones(3, self.num_slots, device=self.device)  # temperature, top-p, min-p
        self.outputs = Outputs(self.device)

    def submit(self, requests: Iterable[Request]) -> None:
        """Queue requests; a UserError for one that no model could serve, before any is queued."""
        requests = list(requests)
        for request in requests:
            self.adapters.check(request.adapter)
            self.strings.check(request.stop_strings)
        self.pending.extend(requests)

    def cancel(self, ids: Iterable[Hashable]) -> None:
        """End these requests now: the next poll returns them as `cancelled`, with the tokens that they have."""
        ids = set(ids)
        waiting = [r for r in self.pending if r.id in ids]
        if waiting:
            self.pending = deque(r for r in self.pending if r.id not in ids)
            self.finished.extend(self._completion(r, "cancelled") for r in waiting)
        with torch.inference_mode():
            for row in reversed([i for i, r in enumerate(self.rows) if r.id in ids]):
                self._finish(row, "cancelled")

    def poll(self) -> list[Completion]:
        """Run until something finishes; an empty list means that nothing is left to do, and memory is given back."""
        activate(self.given)
        try:
            with torch.inference_mode(), slot_attention(self.model):
                while not self.finished and (self.rows or self.pending):
                    self._refill()
                    if self.rows:
                        self._decode()
        except UserError:  # there is no memory: nothing runs any more
            for under_way in (self.rows, self.known, self.at, self.pending):
                under_way.clear()
            self.release()
            raise
        done, self.finished = self.finished, []
        if not done:
            self._rest()
        return done

    def sample(self, requests: Sequence[Request]) -> list[Completion]:
        """Submit and wait for all, in the order of the requests; ids must be unique among them."""
        if len({r.id for r in requests}) != len(requests):
            raise ValueError("request ids repeat; expected each id once in a call of sample()")
        self.submit(requests)
        by_id: dict[Hashable, Completion] = {}
        while len(by_id) < len(requests):
            by_id.update((c.id, c) for c in self.poll())
        self._rest()
        return [by_id[r.id] for r in requests]

    def score(self, sequences: Sequence[Sequence[int]], adapter: str = "") -> list[list[float]]:
        """Log-probability of each token but the first, under the full softmax at temperature 1."""
        self.adapters.check(adapter)
        activate(self.given)
        self._count(scored=sum(map(len, sequences)))
        with torch.inference_mode(), evaluating(self.model), self.adapters.rows([adapter]):
            return sequence_logprobs(self.model, sequences)

    def load_weights(self, version: int, state: dict | None = None) -> None:
        """Take `state` (or the shared module as it now is) as this version; all KV of other versions is dropped."""
        if self.rows or self.pending:
            raise RuntimeError(
                f"{len(self.rows) + len(self.pending)} requests are under way; weights change only between them"
            )
        if self.install is not None:
            self.install(version)
        if state is not None:
            self.given.load_state_dict(state)
        self.release()
        self.adapters.refresh()
        self.weights_version = version

    def release(self) -> None:
        """Give back all that drawing takes beside the weights, finished prefixes included; what is under way keeps its own."""
        self._rest()
        self.prefixes.clear()
        self.decoder = None

    def _rest(self) -> None:
        """Give back what running sequences took, once there are none."""
        if not self.rows and not self.pending:
            self.cache.release()
            self.outputs.release()

    def _reserve(self, length: int) -> None:
        self.cache.reserve(len(self.rows), length)
        self.outputs.reserve(self.cache.rows, self.cache.length)

    def _refill(self) -> None:
        """Give free slots to pending requests."""
        first = len(self.rows)
        while self.pending and len(self.rows) < self.num_slots:
            request = self.pending.popleft()
            reason = self._refusal(request)
            if reason:
                self.finished.append(self._completion(request, reason))
                continue
            self.rows.append(request)
            self.known.append(0)
            self.at.append(len(request.prefix_ids) - 1)
        slots = slice(first, len(self.rows))
        if not self.rows[slots]:
            return
        self._reserve(max(self.at) + 1)
        ints, floats = zip(*map(self._numbers, self.rows[slots]), strict=True)
        self.ints_7R[:, slots] = torch.tensor(ints, device=self.device).T
        self.floats_3R[:, slots] = torch.tensor(floats, device=self.device).T
        self._prefill(range(first, len(self.rows)))
        ways = {r.sampling for r in self.rows}
        rules = [(s.temperature != 1, s.top_k > 0, s.top_p < 1, s.min_p > 0) for s in ways]
        self.rules = [any(of_rule) for of_rule in zip(*rules, strict=True)]

    def _numbers(self, request: Request) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """A request's columns of ints_7R and floats_3R at its admission."""
        start, s = len(request.prefix_ids), request.sampling
        limit = min(start + request.max_tokens, self.length)
        kind = self.stops.row(request.stop_ids, request.stop_strings)
        ints = (request.prefix_ids[-1], start - 1, start, limit, request.place, kind, s.top_k)
        return ints, (s.temperature, s.top_p, s.min_p)

    def _refusal(self, request: Request) -> str:
        """Why a request draws nothing; empty where it may run."""
        reason = refusal(request, self.max_context, self.vocab_size)
        return "memory" if not reason and len(request.prefix_ids) >= self.length else reason

    def _key(self, request: Request) -> tuple[str, int]:
        return request.adapter, self.weights_version

    def _prefill(self, slots: Sequence[int]) -> None:
        """Fill the slots with the keys and values of their prefixes but for the last token."""
        twins: dict[tuple[tuple[str, int], tuple[int, ...]], list[int]] = {}
        for slot in slots:
            request = self.rows[slot]
            twins.setdefault((self._key(request), tuple(request.prefix_ids[:-1])), []).append(slot)
        found = {asked: self.prefixes.match(asked[1], asked[0]) for asked in twins}
        if any(known < len(prefix) for (_, prefix), (known, _) in found.items()):
            self._prefill_ahead([self.rows[slot] for slot in slots])
            found = {asked: self.prefixes.match(asked[1], asked[0]) for asked in twins}
        lacking: list[tuple[int, Span]] = []
        for (key, prefix), alike in twins.items():
            known, segments = found[key, prefix]
            self.cache.write(alike, segments)
            for slot in alike:
                self.known[slot] = known
            if known < len(prefix):
                lacking.append((alike[0], Span(prefix, known)))
        for chunk in chunks(lacking, lambda item: item[1]):  # the prefix cache has no room for these
            at = torch.tensor([slot for slot, _ in chunk], device=self.device)
            self._run(self.cache, at, [s for _, s in chunk], [self.rows[slot].adapter for slot, _ in chunk])
        for slot, span in lacking:
            for twin in twins[self._key(self.rows[slot]), span.tokens][1:]:
                self.cache.move(slot, twin, len(span.tokens))
        filled = sum(len(prefix) * len(alike) for (_, prefix), alike in twins.items())
        owed = min(filled, self.unclaimed)
        self._count(reused=filled - owed)
        self.unclaimed = self.unclaimed - owed if self.pending else 0

    def _prefill_ahead(self, admitted: list[Request]) -> None:
        """Run what the prefix cache lacks of the admitted requests, and of those that wait while a pass has room."""
        wanted: dict[str, dict[tuple[int, ...], int]] = {}
        tokens = 0
        for i, request in enumerate((*admitted, *islice(self.pending, 2 * self.num_slots))):
            prefix = tuple(request.prefix_ids[:-1])
            of_adapter = wanted.setdefault(request.adapter, {})
            if prefix in of_adapter or self._refusal(request):
                continue
            known = self.prefixes.match(prefix, self._key(request))[0]
            tokens += len(prefix) - known
            too_much = tokens * self.token_bytes > self.prefixes.max_bytes // 2
            if too_much or (i >= len(admitted) and tokens > PREFILL_TOKENS):
                break
            of_adapter[prefix] = known
        for adapter, prefixes in wanted.items():
            key = (adapter, self.weights_version)
            for wave in waves(list(prefixes), list(prefixes.values())):
                for chunk in chunks(wave, lambda span: span):
                    width = max(len(span.tokens) for span in chunk)
                    stage = SlotCache(self.model, len(chunk), width + 1)
                    stage.allot(len(chunk), width + 1)  # padding goes to the last position
                    for row, span in enumerate(chunk):
                        known, segments = self.prefixes.match(span.tokens[: span.start], key)
                        chunk[row] = Span(span.tokens, known)  # less than its start where it was evicted
                        stage.write([row], segments)
                    slots = torch.arange(len(chunk), device=self.device)
                    self._run(stage, slots, chunk, [adapter] * len(chunk))
                    for row, span in enumerate(chunk):
                        kv = stage.read(row, span.start, len(span.tokens))
                        self.prefixes.insert(span.tokens, kv, span.start, key)

    def _run(self, cache: SlotCache, slots_R: torch.Tensor, spans: list[Span], adapters: list[str]) -> None:
        """Compute the keys and values of spans in the given slots of a cache, which hold what comes before them."""
        longest = max(len(tokens) - start for tokens, start in spans)
        ids_RT = torch.zeros(len(spans), longest, dtype=torch.long)
        for row, (tokens, start) in enumerate(spans):
            ids_RT[row, : len(tokens) - start] = torch.tensor(tokens[start:])
        start_R = torch.tensor([start for _, start in spans])
        # padding is written past a row's end, where it is overwritten before it is read
        last = cache.length - 1
        positions_RT = (start_R[:, None] + torch.arange(longest)).clamp_(max=last).to(self.device)
        width = max(len(tokens) for tokens, _ in spans)
        cache.select(slots_R, positions_RT, width)
        with self.adapters.rows(adapters):
            seen = Seen(positions_RT, width, self.model.dtype)
            self._hidden(ids_RT.to(self.device), positions_RT, cache, seen)
        prefilled = sum(len(tokens) - start for tokens, start in spans)
        self.unclaimed += prefilled
        self._count(prefilled=prefilled, forwards=1)

    def _hidden(self, ids_RT, positions_RT, cache: SlotCache, seen: Seen) -> torch.Tensor:
        """Last hidden states by the model's own modules."""
        return self.model.base_model(
            input_ids=ids_RT, position_ids=positions_RT, past_key_values=cache, use_cache=True, seen=seen
        ).last_hidden_state

    def _decode(self) -> None:
        """One token for every running row."""
        n = len(self.rows)
        token_R, position_R, start_R, limit_R, place_R, kind_R, top_k_R = self.ints_7R[:, :n]
        temperature_R, top_p_R, min_p_R = self.floats_3R[:, :n]
        groups = grouped(self.at, self.length, self.layer_bytes if self.device.type == "cpu" else 0.0)
        self.group_size, width = groups[0].end, max(g.width for g in groups)
        self._reserve(width)
        self.cache.select(n, position_R[:, None], width)
        rules = zip((temperature_R, top_k_R, top_p_R, min_p_R), self.rules, strict=True)
        seen = Seen(position_R[:, None], width, self.model.dtype, groups)
        drawn = draw(
            self.head(self._decoded(token_R, position_R, seen)),
            uniform_at(place_R, position_R + 1),
            *(values_R if used else None for values_R, used in rules),
        )
        position_R += 1
        token_R.copy_(drawn.token_B)
        self.at = [at + 1 for at in self.at]
        row_R = torch.arange(n, device=self.device)
        self.outputs.put(row_R, position_R - start_R, drawn)
        kinds_R = self.stops.marks_KV[kind_R, drawn.token_B]
        nan_R = drawn.entropy_B.isnan()
        full_R = position_R + 1 >= limit_R
        self._count(decoded=n, forwards=1, slots_busy=n, slots_idle=self.num_slots - n)
        events_3N = torch.stack((row_R, kinds_R, nan_R * 2 + full_R))[:, (kinds_R > 0) | nan_R | full_R]
        for row, kind, event in reversed(list(zip(*events_3N.tolist(), strict=True))):
            reason = self._reason(row, kind, event >= 2, event % 2 == 1)
            if reason:
                self._finish(row, reason)

    def _decoded(self, token_R: torch.Tensor, position_R: torch.Tensor, seen: Seen) -> torch.Tensor:
        """Last hidden states of one token per running row, [R, W]."""
        adapters = [r.adapter for r in self.rows]
        if not any(adapters):
            if self.decoder is None and decoder.fits(self.model):
                self.decoder = decoder.Decoder(self.model, self.max_context)
            if self.decoder is not None:
                return self.decoder(token_R, position_R, self.cache, seen)
        with self.adapters.rows(adapters):
            return self._hidden(token_R[:, None], position_R[:, None], self.cache, seen)[:, 0]

    def _reason(self, row: int, kind: int, is_nan: bool, is_full: bool) -> str:
        """Why a row ends with its newest token; empty where it goes on."""
        request = self.rows[row]
        if is_nan:
            return "nan"
        if kind & EOS:
            return "eos"
        if kind & STOP:
            return "stop"
        if kind & LOOK:
            count = self.at[row] + 1 - len(request.prefix_ids)
            start = max(0, count - tail_tokens(request.stop_strings))
            if self.strings.found(request.stop_strings, self.outputs.tokens(row, start, count)):
                return "stop"
        if not is_full:
            return ""
        asked = self.at[row] + 1 >= len(request.prefix_ids) + request.max_tokens
        return "length" if asked or self.length == self.max_context else "memory"

    def _finish(self, row: int, reason: str) -> None:
        """Hand out a row's completion, keep its keys and values, and close the gap in the slots."""
        request = self.rows[row]
        count = self.at[row] + 1 - len(request.prefix_ids) - (reason == "nan")  # that token is arbitrary
        tokens, numbers = self.outputs.tokens(row, 0, count), self.outputs.numbers(row, count)
        self.finished.append(self._completion(request, reason, tokens, numbers))
        whole = (*request.prefix_ids, *tokens)[:-1]  # the last token was never fed
        if reason == "nan":
            self.cache.clear(row)  # a masked NaN still spreads: 0 · NaN is NaN
        elif self.known[row] < len(whole):
            kv = self.cache.read(row, self.known[row], len(whole))
            self.prefixes.insert(whole, kv, self.known[row], self._key(request))
        for source, target in moves(row, self.at, self.group_size):
            self._move(source, target)
        del self.rows[-1], self.known[-1], self.at[-1]

    def _move(self, source: int, target: int) -> None:
        written = self.at[source] + 1 - len(self.rows[source].prefix_ids)
        self.cache.move(source, target, self.at[source])
        self.outputs.move(source, target, written)
        self.ints_7R[:, target] = self.ints_7R[:, source]
        self.floats_3R[:, target] = self.floats_3R[:, source]
        self.rows[target], self.known[target] = self.rows[source], self.known[source]
        self.at[target] = self.at[source]

    def _completion(self, request: Request, reason: str, tokens=(), numbers=((), (), ())) -> Completion:
        ids, logprobs, full, entropy = map(tuple, (tokens, *numbers))
        return Completion(
            request.id, ids, logprobs, full, entropy, reason, self.weights_version, request.adapter
        )

    def _count(self, **counters: int) -> None:
        if self.ledger:
            self.ledger.add(self.name, **counters)
