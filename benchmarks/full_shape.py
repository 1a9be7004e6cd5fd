"""The 80B shape in random 4-bit weights on a GPU: first call, prefill and decode beside mlx-lm on the same weights.

python benchmarks/full_shape.py [--peer-prompt 512] [--layers 48]

Needs about 50 GB of GPU memory. The two models do not fit together, so they run one after the other in one process; neither
is warmed up before its first call, which is timed apart. Random weights route evenly: every expert is visited, which is the
worst case for prefill.
"""

from __future__ import annotations

import argparse
import gc
from time import perf_counter
from typing import Any

import mlx.core as mx
from measure import Runner, machine, mlx_lm, own, prompt_of
from synthetic import FULL_SHAPE, SyntheticCheckpoint

from mlx_qnext.model.loading import build_model

DECODED = 64


def main() -> None:
    arguments = _arguments()
    shape = FULL_SHAPE | {"num_hidden_layers": arguments.layers}
    print(f"{machine()}\n")
    model, _ = build_model(SyntheticCheckpoint.make(shape))
    _measure("qnext", own(model), arguments.prompts)
    del model
    gc.collect()
    mx.clear_cache()
    # One step size for both lengths: mlx-lm unrolls a chunk's tokens into its graph, and a second size compiles anew.
    _measure("mlx-lm", mlx_lm(_peer(shape), prefill_step_size=512), arguments.peer_prompts)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--prompts", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--peer-prompts", type=int, nargs="+", default=[512, 2048])
    return parser.parse_args()


def _peer(shape: dict[str, Any]) -> Any:
    from mlx import nn
    from mlx_lm.models import qwen3_next

    checkpoint = SyntheticCheckpoint.make(shape)
    settings: Any = checkpoint.config["quantization"]
    model = qwen3_next.Model(qwen3_next.ModelArgs.from_dict(shape))

    def precision(path: str, module: Any) -> Any:
        return settings.get(path, True) if hasattr(module, "to_quantized") else False

    nn.quantize(model, 64, 4, class_predicate=precision)
    model.load_weights(list(checkpoint.arrays(checkpoint.tensors).items()))
    for layer in model.layers:
        mx.eval(layer.parameters())
    mx.eval(model.parameters())
    return model


def _measure(name: str, run: Runner, prompts: list[int]) -> None:
    mx.reset_peak_memory()
    loaded = mx.get_active_memory()
    for length in prompts:
        prompt = prompt_of(length, 1000)
        start = perf_counter()
        run(prompt, 2)
        first_s = perf_counter() - start
        timing = run(prompt, DECODED)
        print(
            f"{name}: prompt {length}: first call {first_s:.1f} s, then prefill {timing.prefill_tps:.0f} tok/s, "
            f"decode {timing.decode_tps:.1f} tok/s; {loaded / 1e9:.1f} GB loaded, "
            f"{mx.get_peak_memory() / 1e9:.1f} GB at the peak",
            flush=True,
        )


if __name__ == "__main__":
    main()
