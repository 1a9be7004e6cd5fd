"""Which experts tokens visit, and what pools of slots make of it: prefetching, allocation, eviction, the hot set, drafting.

PYTHONPATH=. python benchmarks/routing.py [--prompts 64] [--limit 160]

The embedded model answers held-out problems greedily; its routing, and that of a generator at the 80B model's width, are
replayed in simulated pools. A prompt is one visit of a layer, each token of an answer is one more; pools are full to begin
with, and kept from one text to the next. Only answers count, unless a table says otherwise.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
from drafting import FixedDepth, answer
from lru_simulation import Belady, Lfu, Lru, Policy, Pool, lru_depths
from measure import machine
from prefetching import Fetched, decode_time, prefetched
from routing_trace import Generator, Text, Trace, recorded

import mlx_qnext
from demo.cases import Case, cases

SHARES = (0.25, 0.5, 0.75)
# Experts guessed, in times of top-k.
WIDTHS = (0.5, 1.0, 1.5, 2.0)
NOT_HELD_OUT = ("talk", "recall")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--limit", type=int, default=160)
    arguments = parser.parse_args()
    traces = [_embedded(arguments.prompts, arguments.limit), Generator().trace("generator")]
    print(f"{machine()}\n")
    for trace in traces:
        answers = sum(len(text.chosen) - text.prompt for text in trace.texts)
        print(
            f"{trace.name}: {trace.layers} layers of {trace.experts} experts, top {trace.top_k}; {len(trace.texts)} texts, "
            f"{sum(text.prompt for text in trace.texts)} tokens of prompts, {answers} of answers"
        )
    for table in (_recall, _prefetch, _prefetch_time, _allocation, _eviction, _by_layer, _hot_set, _drafting):
        for trace in traces:
            print(f"\n### {(table.__doc__ or '').strip()} — {trace.name}\n", flush=True)
            table(trace)


def _embedded(prompts: int, limit: int) -> Trace:
    """Held-out problems with thinking, tasks in turn."""
    engine = mlx_qnext.load("demo")
    asked = [c for c in cases(1 + prompts // 20, thinking=True) if c.task not in NOT_HELD_OUT]
    texts = []
    for case in _spread(asked)[:prompts]:
        prompt = engine.tokenizer.prompt(case.messages, list(case.chat.tools) or None).token_ids
        said = answer(engine.model, prompt, FixedDepth(0), limit, engine.tokenizer.eos_ids).tokens
        texts.append((prompt, said))
    return recorded("embedded model", engine.model, texts)


def _spread(asked: list[Case]) -> list[Case]:
    return [asked[i] for i in sorted(range(len(asked)), key=lambda i: (i * 13) % len(asked))]


def _recall(trace: Trace) -> None:
    """Of the experts chosen, the share among the early guesses"""
    _head("guess", [f"{_width(trace, times)} guessed" for times in WIDTHS])
    kinds: dict[str, Callable[[Text], np.ndarray]] = {
        "before the layer's experts": lambda text: text.early,
        "after them": lambda text: text.late,
    }
    for name, guess_of in kinds.items():
        shares = []
        for times in WIDTHS:
            found = [_found(text.chosen, guess_of(text)[..., : _width(trace, times)]) for text in trace.texts]
            shares.append(np.concatenate([f[t.prompt :] for f, t in zip(found, trace.texts)]).mean(axis=0))
        _row(name, [_percent(share[1:].mean()) for share in shares])
        by_layer = " ".join(f"{100 * share:.0f}" for share in shares[WIDTHS.index(1.0)][1:])
        print(f"| … layer by layer from the second, {trace.top_k} guessed: {by_layer} | | | | |")


def _found(chosen: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """`[T, L, K]` and `[T, L, G]` → `[T, L]`, the share of the chosen that was guessed."""
    return (chosen[..., :, None] == guess[..., None, :]).any(axis=-1).mean(axis=-1)


def _prefetch(trace: Trace) -> None:
    """Prefetching into LRU pools, layers from the second"""
    columns = ["hits without", "hits with", "misses foreseen", "vain per useful byte", "bytes read"]
    _head("slots, guessed", columns)
    for share in SHARES:
        plain = prefetched(trace, _slots(trace, share), 0)
        for times in WIDTHS:
            run = prefetched(trace, _slots(trace, share), _width(trace, times))
            _row(f"{share:.0%}, {_width(trace, times)}", _prefetch_cells(trace, plain, run))


def _prefetch_cells(trace: Trace, plain: Fetched, run: Fetched) -> list[str]:
    visits = run.misses[:, 1:].size * trace.top_k
    absent = run.misses.sum() + run.useful.sum() - run.misses[:, 0].sum()
    read = (run.misses + run.fetched)[:, 1:].sum()
    return [
        _percent(1 - plain.misses[:, 1:].sum() / visits),
        _percent(1 - run.misses[:, 1:].sum() / visits),
        _percent(run.useful.sum() / absent),
        f"{(run.fetched - run.useful).sum() / run.useful.sum():.2f}",
        f"{read / plain.misses[:, 1:].sum():.2f}×",
    ]


def _prefetch_time(trace: Trace) -> None:
    """Modelled decoding time with prefetching over without, by how long one expert is read for while a layer computes for 1"""
    ratios = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 4.0)
    _head("slots, guessed", [str(ratio) for ratio in ratios])
    for share in SHARES:
        plain = prefetched(trace, _slots(trace, share), 0)
        for times in WIDTHS:
            run = prefetched(trace, _slots(trace, share), _width(trace, times))
            cells = [f"{decode_time(run, ratio) / decode_time(plain, ratio):.2f}×" for ratio in ratios]
            _row(f"{share:.0%}, {_width(trace, times)}", cells)


def _allocation(trace: Trace) -> None:
    """Hit rates of LRU pools at equal total slots; complete layers break even if a synchronisation costs so many reads"""
    _head("slots", ["uniform", "first complete", "hardest complete", "break even", "best in hindsight"])
    curves = np.stack([_curve(trace, layer) for layer in range(trace.layers)])
    for share in (0.25, 0.5, 0.75, 0.9, 0.95):
        slots = _slots(trace, share)
        mixed = _complete_and_thin(trace, slots * trace.layers)
        uniform = curves[:, slots].mean()
        first, hardest = (_rate(c, mixed) for c in (curves, curves[np.argsort(curves[:, slots])]))
        # What complete layers cost in reads, over the synchronisations that they do without.
        even = (uniform - hardest) * trace.top_k / (mixed == trace.experts).mean()
        cells = [_percent(uniform), _percent(first), _percent(hardest), f"{even:.2f}"]
        _row(f"{share:.0%}", [*cells, _percent(_best(curves, slots * trace.layers))])


def _curve(trace: Trace, layer: int) -> np.ndarray:
    """The layer's hit rate by number of slots, `[E + 1]`; fewer than top-k are no pool."""
    visits = _visits(trace, layer)
    depths = lru_depths([rows for rows, _ in visits], trace.experts)
    counted = np.concatenate([depth for depth, (_, counts) in zip(depths, visits) if counts])
    # An expert at depth d hits from d + 1 slots on.
    curve = np.append(0, np.bincount(counted, minlength=trace.experts).cumsum()) / len(counted)
    curve[: trace.top_k] = -np.inf
    return curve


def _complete_and_thin(trace: Trace, total: int) -> np.ndarray:
    """As many complete layers as there can be, the others sharing what is left evenly."""
    complete = (total - trace.layers * trace.top_k) // (trace.experts - trace.top_k)
    thin = trace.layers - complete
    left = total - complete * trace.experts
    return np.array([trace.experts] * complete + [left // thin + (i < left % thin) for i in range(thin)])


def _rate(curves: np.ndarray, slots: np.ndarray) -> float:
    return float(curves[np.arange(len(slots)), slots].mean())


def _best(curves: np.ndarray, total: int) -> float:
    """The hit rate of the best allocation of the total that there is, by dynamic programming over layers."""
    best = np.full(total + 1, -np.inf)
    best[0] = 0.0
    for curve in curves:
        widened = np.full(total + 1, -np.inf)
        for slots, rate in enumerate(curve[: total + 1]):
            np.maximum(widened[slots:], best[: total + 1 - slots] + rate, out=widened[slots:])
        best = widened
    return float(best.max()) / len(curves)


PolicyOf = Callable[[int, Sequence[np.ndarray]], Policy]
POLICIES: dict[str, PolicyOf] = {
    "LRU": lambda experts, _: Lru(experts),
    "LFU": lambda experts, _: Lfu(experts),
    "LFU, decay 0.99": lambda experts, _: Lfu(experts, 0.99),
    "LFU, decay 0.95": lambda experts, _: Lfu(experts, 0.95),
    "LFU, decay 0.9": lambda experts, _: Lfu(experts, 0.9),
    "LFU, decay 0.8": lambda experts, _: Lfu(experts, 0.8),
    "Belady": lambda experts, visits: Belady(experts, visits),
}


def _eviction(trace: Trace) -> None:
    """Hit rates by eviction policy, uniform pools"""
    _head("policy", [f"{share:.0%} of slots" for share in SHARES])
    for name, policy_of in POLICIES.items():
        rates = [np.mean(_hit_rates(trace, _slots(trace, share), policy_of)) for share in SHARES]
        _row(name, [_percent(float(rate)) for rate in rates])


def _by_layer(trace: Trace) -> None:
    """Hit rates layer by layer, 50 % of slots"""
    _head("policy", [str(layer) for layer in range(trace.layers)])
    for name in ("LRU", "LFU, decay 0.95", "Belady"):
        _row(name, [_percent(r) for r in _hit_rates(trace, _slots(trace, 0.5), POLICIES[name])])


def _hit_rates(trace: Trace, slots: int, policy_of: PolicyOf) -> list[float]:
    rates = []
    for layer in range(trace.layers):
        visits = _visits(trace, layer)
        pool = Pool(slots, policy_of(trace.experts, [rows for rows, _ in visits]))
        misses = [(pool.visit(rows), counts) for rows, counts in visits]
        counted = [n for n, counts in misses if counts]
        rates.append(1 - sum(counted) / (len(counted) * trace.top_k))
    return rates


def _hot_set(trace: Trace) -> None:
    """A remembered hot set: experts read a text and layer, from pools that are filled with it or empty"""
    columns = ["prompt, empty", "prompt, hot", "saved", "64 tokens, empty", "64 tokens, hot", "saved"]
    _head("slots", columns)
    remembered, asked = trace.texts[::2], trace.texts[1::2]
    for share in SHARES:
        reads = np.zeros((2, 2))
        for layer in range(trace.layers):
            visited = np.concatenate([text.chosen[:, layer].reshape(-1) for text in remembered])
            hottest = np.argsort(-np.bincount(visited, minlength=trace.experts), kind="stable")
            for text in asked:
                for warm in (False, True):
                    pool = Pool(_slots(trace, share), Lru(trace.experts, hottest), empty=not warm)
                    prompt, *said = _text_visits(text, layer)
                    reads[int(warm)] += pool.visit(prompt), sum(pool.visit(rows) for rows in said[:64])
        reads /= len(asked) * trace.layers
        cells = [(f"{a:.1f}", f"{b:.1f}", _percent(1 - b / a)) for a, b in reads.T]
        _row(f"{share:.0%}", [*cells[0], *cells[1]])


def _drafting(trace: Trace) -> None:
    """One draft a pass, 20 % rejected: experts read a layer and emitted token"""
    _head("slots", ["without drafts", "rejected promoted", "not promoted", "not over promoted"])
    for share in SHARES:
        slots = _slots(trace, share)
        plain = (1 - np.mean(_hit_rates(trace, slots, POLICIES["LRU"]))) * trace.top_k
        promoted, kept_out = (_draft(trace, slots, promote=promote) for promote in (True, False))
        cells = [f"{reads:.3f}" for reads in (plain, promoted, kept_out)]
        _row(f"{share:.0%}", [*cells, f"{kept_out / promoted:.3f}×"])


def _draft(trace: Trace, slots: int, *, promote: bool) -> float:
    """Experts read a layer and emitted token; dice decide which drafts stand."""
    misses = emitted = 0
    for layer in range(trace.layers):
        rng = np.random.default_rng(0)
        pool = Pool(slots, Lru(trace.experts))
        for text in trace.texts:
            prompt, *said = _text_visits(text, layer)
            pool.visit(prompt)
            at = 0
            while at < len(said):
                stands = int(rng.random() < 0.8)
                kept = np.concatenate(said[at : at + 1 + stands])
                rejected = text.rejected[at + 1 : at + 2 - stands, layer]
                both = np.concatenate([kept, rejected])
                misses += pool.visit(both) if promote else pool.visit(kept, rejected)
                emitted, at = emitted + len(kept), at + len(kept)
    return misses / emitted


def _visits(trace: Trace, layer: int) -> list[tuple[np.ndarray, bool]]:
    """All visits of a layer, and whether they count: prompts do not."""
    return [(rows, at > 0) for text in trace.texts for at, rows in enumerate(_text_visits(text, layer))]


def _text_visits(text: Text, layer: int) -> list[np.ndarray]:
    rows = text.chosen[:, layer]
    return [rows[: text.prompt], *(rows[at : at + 1] for at in range(text.prompt, len(rows)))]


def _slots(trace: Trace, share: float) -> int:
    return round(share * trace.experts)


def _width(trace: Trace, times: float) -> int:
    return round(times * trace.top_k)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _head(name: str, columns: Sequence[str]) -> None:
    print(f"| {name} | " + " | ".join(columns) + " |\n|---|" + "---:|" * len(columns))


def _row(name: str, cells: Sequence[str]) -> None:
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
