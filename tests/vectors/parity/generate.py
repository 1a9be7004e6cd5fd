"""Write the tiny checkpoints of the grid, and what transformers computes from them in fp32 on the CPU.

    python tests/vectors/parity/generate.py [CASE ...]

Needs torch, transformers, safetensors and mlx-lm; tests need none of them. Goldens come from a model that transformers loads
back from the files just written, so that they are the truth about those files. The same versions give the same bytes.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import shutil
import sys
import zlib
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import torch
import transformers
from double import logits_in_double
from grid import BASE, CASES, Case, Config
from probe import Probe, mlx_lm_difference
from safetensors.numpy import save_file
from torch_mtp import TorchMtp, mtp_goldens
from transformers import Qwen3NextConfig, Qwen3NextForCausalLM
from weights import Tensors, random_tensors, unfused, write_checkpoint

HERE = Path(__file__).parent
DRAFTS = 3
# A smaller gap between the last expert chosen and the first left out could turn over with rounding: draw again.
MIN_ROUTER_GAP = 2e-4
# Goldens that rounding alone moves further than this from fp64 could not hold a model to 1e-5: draw again.
MAX_ROUNDING = 3e-6


def stored_config(case: Case) -> Config:
    """The case's config.json: as the 2025 releases spell it, or as transformers 5 saves it again."""
    fields = BASE | case.fields
    if case.spelling == "2025":
        return fields
    dropped = ("full_attention_interval",) if "layer_types" in fields else ()
    kept = {k: v for k, v in fields.items() if k not in (*dropped, "torch_dtype", "transformers_version")}
    config = Qwen3NextConfig(**kept, dtype="float32")
    config.architectures = ["Qwen3NextForCausalLM"]
    return json.loads(config.to_json_string())


def make_tensors(config: Qwen3NextConfig, case: Case, seed: int) -> Tensors:
    with torch.device("meta"):
        trunk = Qwen3NextForCausalLM(config).state_dict()
        head = TorchMtp(config).state_dict() if case.mtp else {}
    shapes = {name: tuple(value.shape) for name, value in trunk.items()}
    shapes |= {f"mtp.{name}": tuple(value.shape) for name, value in head.items()}
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    return random_tensors(shapes, case, seed)


def loaded_model(folder: Path) -> Qwen3NextForCausalLM:
    model, report = Qwen3NextForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",
        output_loading_info=True,
    )
    problems = {key: value for key, value in report.items() if value}
    assert not problems, f"transformers does not read {folder.name} back: {problems}"
    return model.eval()


def loaded_mtp(model: Qwen3NextForCausalLM, tensors: Tensors) -> TorchMtp:
    mtp = TorchMtp(model.config)
    state = {name[4:]: torch.from_numpy(value) for name, value in tensors.items() if name.startswith("mtp.")}
    mtp.load_state_dict(state, strict=True)
    return mtp.eval()


def goldens(
    case: Case, model: Qwen3NextForCausalLM, mtp: TorchMtp | None, seed: int
) -> dict[str, np.ndarray]:
    """`tokens.T`, `logits.T`, `hidden.T` (after the final norm) for every length T, and `mtp.*.T` from two tokens up."""
    rng = np.random.default_rng(seed)
    vectors: dict[str, np.ndarray] = {}
    for length in case.lengths:
        tokens = torch.from_numpy(rng.integers(0, model.config.vocab_size, (1, length)))
        hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state
        vectors[f"tokens.{length}"] = tokens[0].int().numpy()
        vectors[f"hidden.{length}"] = hidden[0].numpy()
        vectors[f"logits.{length}"] = model(input_ids=tokens, use_cache=False).logits[0].numpy()
        if mtp is not None and length > 1:
            outputs = mtp_goldens(mtp, model, tokens, hidden, DRAFTS)
            vectors |= {f"mtp.{name}.{length}": value for name, value in outputs.items()}
    return vectors


def write_case(case: Case) -> dict[str, Any]:
    """Write one case's folder; the manifest's entry for it. Badly conditioned draws are drawn again."""
    folder, config = HERE / case.name, stored_config(case)
    seed = zlib.crc32(case.name.encode()) % 10_000
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        tensors = make_tensors(Qwen3NextConfig(**config), case, seed)
        write_checkpoint(folder / "checkpoint", config, unfused(tensors), case.shards)
        model = loaded_model(folder / "checkpoint")
        mtp = loaded_mtp(model, tensors) if case.mtp else None
        with Probe([model, *([mtp] if mtp else [])]) as probe:
            vectors = goldens(case, model, mtp, seed)
        rounding = max(
            abs(vectors[f"logits.{n}"] - logits_in_double(model, vectors[f"tokens.{n}"])).max()
            for n in case.lengths
        )
        if probe.router_gap >= MIN_ROUTER_GAP and rounding <= MAX_ROUNDING:
            break
        seed += 10_000
    save_file(
        {name: np.ascontiguousarray(value) for name, value in vectors.items()}, folder / "vectors.safetensors"
    )
    return {
        "name": case.name,
        "covers": list(case.covers),
        "spelling": case.spelling,
        "lengths": list(case.lengths),
        "mtp": case.mtp,
        "seed": seed,
        "measured": probe.summary()
        | {
            "max_abs_logit": _rounded(max(abs(vectors[f"logits.{n}"]).max() for n in case.lengths)),
            "max_abs_diff_from_fp64": _rounded(rounding),
        },
        "mlx_lm": mlx_lm_difference(folder / "checkpoint", vectors, case.lengths),
        "files": {
            str(path.relative_to(HERE)): _sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()
        },
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    mx.set_default_device(mx.cpu)
    manifest_path = HERE / "manifest.json"
    entries = {}
    if names:
        entries = {entry["name"]: entry for entry in json.loads(manifest_path.read_text())["cases"]}
    for case in CASES:
        if not names or case.name in names:
            entries[case.name] = write_case(case)
            print(json.dumps(entries[case.name] | {"files": len(entries[case.name]["files"])}))
    manifest = {
        "oracle": "transformers Qwen3NextForCausalLM, fp32, CPU, eager attention, use_cache False",
        "created": datetime.date.today().isoformat(),
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "mlx_lm": mlx_lm.__version__,
            "mlx": mx.__version__,
            "numpy": np.__version__,
        },
        "cases": [entries[case.name] for case in CASES],
    }
    manifest_path.write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
