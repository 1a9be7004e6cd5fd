"""Several sequences decode together: one pass of the model gives each of them its next token.

A pass reads each weight once for all of them. Windows and states of the recurrent layers are the rows of one array; keys and
values lie on shelves, so that a layer attends for all sequences of like lengths at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import mlx.core as mx

from mlx_qnext.cache.hybrid import HybridCache
from mlx_qnext.cache.shelves import Shelves
from mlx_qnext.generate.answer import Answer
from mlx_qnext.generate.batch_prompt import Prepared
from mlx_qnext.generate.experts_in_use import ExpertsInUse
from mlx_qnext.generate.sampler import Sampler
from mlx_qnext.generate.stopwatch import Stopwatch
from mlx_qnext.model.attention import Projected
from mlx_qnext.model.gated_delta_net import RecurrentState
from mlx_qnext.model.moe import Routed
from mlx_qnext.model.qwen3_next import Model
from mlx_qnext.model.stretch import Arrays, Attend, Stretch, Visit


@dataclass
class BatchSequence:
    """One answer on its way.

    Attributes:
        tokens: its prompt and what has been said.
        token: the next one, a scalar that nobody has read yet; `None` before the prompt is read. While it decodes it is in its
            row.
        cached_tokens: of the prompt, how many were not read again.
        cache: where its states, keys and values go when it leaves; empty while it decodes, `None` before and afterwards.
    """

    prepared: Prepared
    answer: Answer
    sampler: Sampler
    watch: Stopwatch
    experts: ExpertsInUse
    tokens: list[int]
    token: mx.array | None = None
    cached_tokens: int = 0
    cache: HybridCache | None = None


class Together:
    """The sequences that decode now.

    Attributes:
        sequences: in the order of their rows.
    """

    def __init__(self, model: Model) -> None:
        self.sequences: list[BatchSequence] = []
        self._model = model
        self._states: list[RecurrentState] = []
        # Of each row the next token, `[B]`.
        self._tokens = mx.zeros(0, dtype=mx.uint32)
        self._kv = Shelves()

    def begin(self, sequence: BatchSequence, cache: HybridCache, hidden: mx.array) -> None:
        """Decode it from now on, from the last state `[1, 1, hidden]` of what the cache holds: `sequence.tokens`."""
        if sequence.answer.overthinks:
            hidden = self._close_thought(sequence, cache, unread=[])
        sequence.token = sequence.sampler(self._model.logits(hidden)[0, -1])
        self.join(sequence, cache)

    def join(self, sequence: BatchSequence, cache: HybridCache) -> None:
        """Decode it too, from now on. The cache is its own, holds `sequence.tokens`, and is empty afterwards."""
        sequence.cache = cache
        joining = [RecurrentState(*layer.cache) for layer in cache.recurrent]
        for layer in cache.recurrent:
            # From now on they are rows, and what they were would only take memory.
            layer.cache = [None, None]
        if self.sequences:
            joining = [_below(a, b) for a, b in zip(self._states, joining, strict=True)]
        self._states = joining
        self._tokens = mx.concatenate([self._tokens, cast(mx.array, sequence.token)[None]])
        self._kv.add(cache.layers)
        self.sequences.append(sequence)

    def leave(self, sequence: BatchSequence) -> HybridCache:
        """Decode it no more; returns its cache, which holds what its row held."""
        at = self.sequences.index(sequence)
        cache = cast(HybridCache, sequence.cache)
        self._kv.remove(at, cache.layers)
        for layer, (window, state) in zip(cache.recurrent, self._states, strict=True):
            layer.cache = [window[at : at + 1], state[at : at + 1]]
        rows = mx.array([row for row in range(len(self.sequences)) if row != at], dtype=mx.uint32)
        del self.sequences[at]
        sequence.cache, sequence.token = None, self._tokens[at]
        self._tokens = self._tokens[rows]
        self._states = [RecurrentState(window[rows], state[rows]) for window, state in self._states]
        return cache

    def step(self) -> list[BatchSequence]:
        """Every sequence gets a token; those that ended with it leave and are returned."""
        tokens = self._tokens
        # Where the host waits for every layer's router it can't be a step ahead, and fetches nothing for what has ended.
        ahead = self._model.complete
        if ahead:
            self._run()
        ended = self._tell(cast(list[int], tokens.tolist()))
        for sequence in ended:
            self.leave(sequence)
        overthinking = [(s, self.leave(s)) for s in self.sequences[:] if s.answer.overthinks]
        if not ahead and self.sequences:
            self._run()
        for sequence, cache in overthinking:
            hidden = self._close_thought(sequence, cache, unread=[] if ahead else sequence.tokens[-1:])
            self.begin(sequence, cache, hidden)
        return ended

    def _close_thought(self, sequence: BatchSequence, cache: HybridCache, unread: list[int]) -> mx.array:
        """Run the end of the thought, after tokens that were told and not run; returns the last one's state."""
        closing = list(sequence.answer.closing_tokens)
        sequence.answer.close_thought()
        hidden = self._model.hidden(mx.array([[*unread, *closing]]), cache.layers)[:, -1:]
        sequence.tokens += closing
        # What was drawn to follow the open thought was not said.
        sequence.sampler.answer_holds(sequence.tokens[len(sequence.prepared.prompt.token_ids) :])
        return hidden

    def _tell(self, tokens: list[int]) -> list[BatchSequence]:
        for sequence, token in zip(self.sequences, tokens, strict=True):
            sequence.watch.token_came()
            sequence.tokens.append(token)
            sequence.answer.push(token)
        return [s for s in self.sequences if s.answer.ended or s.answer.full]

    def _run(self) -> None:
        """Run each row's token over its own sequence, and queue the tokens that follow."""
        logits = self._model.logits(self._hidden(self._tokens[:, None]))[:, -1]
        samplers = [sequence.sampler for sequence in self.sequences]
        if all(sampler.takes_likeliest for sampler in samplers):
            self._tokens = mx.argmax(logits, axis=-1)
        else:
            self._tokens = mx.stack([draw(logits[row]) for row, draw in enumerate(samplers)])
        # The device works on the next tokens while the host handles these.
        mx.async_eval(self._tokens)

    def _hidden(self, tokens: mx.array) -> mx.array:
        """Tokens `[B, 1]` → states after the final norm `[B, 1, hidden]`; every cache advances by one."""
        self._kv.begin_step()
        x = self._model.model.embed_tokens(tokens)
        past, after = iter(self._states), list[RecurrentState]()
        answer: Arrays = ()
        # The trunk's own: where experts are given back, it lets go of what is compiled with them.
        for group in self._model.model.groups:
            for stretch in group.stretches():
                states = [next(past) for _ in stretch.recurrent]
                x, asked, states = stretch(x, answer, states, None)
                after += [RecurrentState(*state) for state in states]
                answer = self._answer(stretch, asked)
        self._states = after
        return self._model.model.norm(x)

    def _answer(self, stretch: Stretch, asked: Arrays) -> Arrays:
        """What the interruption that the stretch opens comes to."""
        match stretch.opening:
            case Attend(index, layer):
                read = Projected(*asked)
                attended = [
                    layer.mixer.attend(_of(read, sequences), mask, rows)
                    for sequences, mask, rows in self._kv.readings(index)
                ]
                return self._kv.in_order(attended), read.gate
            case Visit(_, moe):
                routed = Routed(*asked)
                return moe.experts(routed.x, routed.experts), *routed
        return ()


def _below(rows: RecurrentState, more: RecurrentState) -> RecurrentState:
    return RecurrentState(*(mx.concatenate([a, b]) for a, b in zip(rows, more, strict=True)))


def _of(read: Projected, sequences: mx.array | None) -> Projected:
    return read if sequences is None else Projected(*(part[sequences] for part in read))
