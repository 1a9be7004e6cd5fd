"""What `--skew` makes of a synthetic checkpoint's routing: the visits that the busiest experts take, over random tokens.

PYTHONPATH=. python benchmarks/skew.py [--skews 0 0.1 0.2 0.3] [--tokens 384] [--width 256]

48 layers of 512 experts, of which a token visits 10, as in the 80B shape; each layer narrow. Every row also says whether hidden
states stay finite, and how much two tokens have in common: the mean cosine of their last hidden states.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import mlx.core as mx
import numpy as np
from measure import machine, prompt_of

from benchmarks.random_weights import RandomWeights
from benchmarks.shape import FULL_SHAPE, Config, modules
from benchmarks.synthetic_folder import write_folder
from mlx_qnext import load_model
from mlx_qnext.model.moe import Routed, SparseMoe
from mlx_qnext.model.qwen3_next import Model

SHARES = (0.01, 0.1, 0.25, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--skews", type=float, nargs="+", default=[0, 0.1, 0.2, 0.3])
    parser.add_argument("--tokens", type=int, default=384)
    parser.add_argument("--width", type=int, default=256)
    arguments = parser.parse_args()
    config = _narrow(arguments.width)
    busiest = " | ".join(f"busiest {100 * share:.0f} %" for share in SHARES)
    print(f"{machine()}; {arguments.tokens} tokens\n")
    print(f"| skew | {busiest} | never visited | in common with the token before | finite | cosine |")
    print("|---:|" + "---:|" * (len(SHARES) + 4), flush=True)
    for skew in arguments.skews:
        with TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            write_folder(folder, config, RandomWeights(modules(config), skew=skew))
            print(f"| {skew:g} | {_row(load_model(folder)[0], arguments.tokens)} |", flush=True)


def _narrow(width: int) -> Config:
    """The 80B shape's layers and experts, at another width."""
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
    linear = {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 64,
        "linear_value_head_dim": 64,
    }
    inner = {"moe_intermediate_size": 64, "shared_expert_intermediate_size": 64}
    return FULL_SHAPE | heads | linear | inner | {"hidden_size": width, "vocab_size": 4096}


def _row(model: Model, tokens: int) -> str:
    prompt = prompt_of(tokens, model.config.vocab_size)
    with _visits() as visits:
        hidden = np.array(model.hidden(mx.array([prompt]), model.make_cache()), dtype=np.float32)[0]
    shares = np.array([_sorted_shares(chosen, model.config.num_experts) for chosen in visits])
    cells = [
        f"{100 * shares[:, : round(share * shares.shape[1])].sum(axis=1).mean():.0f} %" for share in SHARES
    ]
    unit = hidden / np.linalg.norm(hidden, axis=-1, keepdims=True)
    cosine = ((unit @ unit.T).sum() - tokens) / (tokens * (tokens - 1))
    common = np.mean([_common(chosen) for chosen in visits])
    finite = "yes" if np.isfinite(hidden).all() else "no"
    return " | ".join(
        [*cells, f"{100 * (shares == 0).mean():.0f} %", f"{100 * common:.0f} %", finite, f"{cosine:.2f}"]
    )


@contextmanager
def _visits() -> Iterator[list[np.ndarray]]:
    """The experts `[T, K]` that tokens were sent to in every layer of a pass made within."""
    visits: list[np.ndarray] = []
    plain = SparseMoe.route

    def route(self: SparseMoe, x: mx.array) -> Routed:
        routed = plain(self, x)
        # The shared expert may stand behind those that were chosen.
        visits.append(np.array(routed.experts)[0, :, : self.top_k])
        return routed

    SparseMoe.route = route
    try:
        yield visits
    finally:
        SparseMoe.route = plain


def _sorted_shares(chosen: np.ndarray, experts: int) -> np.ndarray:
    """Each expert's share of the visits, the busiest first."""
    return np.sort(np.bincount(chosen.ravel(), minlength=experts))[::-1] / chosen.size


def _common(chosen: np.ndarray) -> float:
    """Of a token's experts, the share that the token before visited too."""
    return float(np.mean([np.isin(after, before).mean() for before, after in pairwise(chosen)]))


if __name__ == "__main__":
    main()
