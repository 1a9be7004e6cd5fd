"""What rounds cost at the 80B shape: random weights, real drafting and verifying, and acceptance by the dice."""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import mlx.core as mx
from drafting import FixedDepth, drafter_of, new_timeline
from measure import GREEDY, prompt_of
from synthetic import FULL_SHAPE, SyntheticCheckpoint

from mlx_qnext.generate.acceptance import Verdict
from mlx_qnext.generate.prefill import prefill
from mlx_qnext.generate.request import DEEPEST_DRAFT
from mlx_qnext.generate.sampler import Draft, Sampler
from mlx_qnext.generate.speculative import Speculation
from mlx_qnext.model.loading import build_model
from mlx_qnext.model.qwen3_next import Model

PROMPT = 64
WARM_UP, ROUNDS = 4, 32
FORCED = (0.60, 0.80, 0.93)


class ForcedSampler(Sampler):
    """Judges as a greedy sampler does, as far as the work goes, and then lets each draft stand by chance."""

    def __init__(self, vocab_size: int, chance: float) -> None:
        super().__init__(GREEDY, vocab_size, [], seed=0)
        self._dice, self._chance = random.Random(0), chance

    def judge(self, logits: mx.array, draft: Draft) -> Verdict:
        choices = mx.argmax(logits, axis=-1)
        depth = draft.tokens.size
        stands = next((i for i in range(depth) if self._dice.random() >= self._chance), depth)
        # The count still waits for the logits, as a real one does.
        return Verdict((choices[0] * 0).astype(mx.int32) + stands, choices[stands])


def full_shape(layers: int, shape: dict[str, Any] = FULL_SHAPE) -> None:
    """Print the cost of verifying 1 to 5 tokens, and tokens a second by depth and acceptance."""
    start = perf_counter()
    model, _ = build_model(SyntheticCheckpoint.make(shape | {"num_hidden_layers": layers}, mtp=True))
    print(f"built in {perf_counter() - start:.0f} s, {mx.get_active_memory() / 1e9:.1f} GB\n", flush=True)
    verification_costs(model)
    _curve(model)


def verification_costs(model: Model) -> None:
    """Print what verifying 1 to 5 tokens takes, keeping all but one of them."""
    print("| tokens verified | ms | over one | first call, s |\n|---|---:|---:|---:|")
    one = 0.0
    for tokens in range(1, DEEPEST_DRAFT + 2):
        first_s, ms = _verify_ms(model, tokens)
        one = one or ms
        print(f"| {tokens} | {ms:.1f} | {ms / one:.2f}× | {first_s:.1f} |", flush=True)


def _verify_ms(model: Model, tokens: int) -> tuple[float, float]:
    """Seconds of the first verification of so many tokens, and the median milliseconds of those after it; 1 is a plain step."""
    timeline = new_timeline(model)
    for _ in prefill(model, timeline, prompt_of(PROMPT, 1000)):
        pass

    def once(n: int) -> None:
        inputs, caches = mx.array([prompt_of(tokens, 1000 + n)]), timeline.cache.layers
        if tokens == 1:
            mx.eval(mx.argmax(model.logits(model.hidden(inputs, caches)), axis=-1))
            return
        hidden, verification = model.verify(inputs, caches)
        mx.eval(mx.argmax(model.logits(hidden), axis=-1))
        verification.keep(max(1, tokens - 1))

    return _first_and_median(once)


def _first_and_median(once: Callable[[int], None]) -> tuple[float, float]:
    times = []
    for n in range(1 + WARM_UP + ROUNDS):
        start = perf_counter()
        once(n)
        times.append(perf_counter() - start)
    return times[0], 1e3 * median(times[1 + WARM_UP :])


def _curve(model: Model) -> None:
    plain = _tokens_per_second(model, 0, 1.0)
    print(f"\nplain decoding: {plain:.1f} tok/s\n")
    print("| drafts a round | " + " | ".join(f"{100 * chance:.0f} % stand" for chance in FORCED) + " |")
    print("|---|" + "---:|" * len(FORCED))
    for depth in range(1, DEEPEST_DRAFT + 1):
        rates = [_tokens_per_second(model, depth, chance) for chance in FORCED]
        print(f"| {depth} | " + " | ".join(_cell(rate, plain) for rate in rates) + " |", flush=True)


def _cell(rate: float, plain: float) -> str:
    return f"{rate:.1f} tok/s, {rate / plain:.2f}×"


def _tokens_per_second(model: Model, depth: int, chance: float) -> float:
    timeline = new_timeline(model)
    drafter = drafter_of(model, timeline)
    *_, read = prefill(model, timeline, prompt_of(PROMPT, 1000), 0, drafter)
    hidden = read.hidden
    sampler = ForcedSampler(model.config.vocab_size, chance)
    groups = Speculation(model, timeline, sampler, drafter, FixedDepth(depth)).groups(hidden)
    for _ in range(WARM_UP):
        next(groups)
    start, lengths = perf_counter(), [len(next(groups)) for _ in range(ROUNDS)]
    return sum(lengths) / (perf_counter() - start)
