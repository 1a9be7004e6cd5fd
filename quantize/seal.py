"""What turns filled weight files into a model's folder: configuration, index, tokenizer, manifest, model card."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlx_qnext.checkpoint import INDEX_FILE, MTP_FILE, Checkpoint
from mlx_qnext.disk import replacing
from quantize.card import card
from quantize.facts import Facts
from quantize.manifest import FILE as MANIFEST_FILE
from quantize.manifest import Manifest, OnBytes, file_digest, tensor_digests
from quantize.plan import Plan

CARD_FILE = "README.md"
COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
    "LICENSE",
)


def link_weights(source: Checkpoint, folder: Path) -> None:
    """The weight files of `source` and their index are in `folder` too: as links, which take no room, or as copies where the
    two are on different disks."""
    for path in [*(source.folder / name for name in source.metadata), *source.folder.glob(INDEX_FILE)]:
        dest = folder / path.name
        dest.unlink(missing_ok=True)
        try:
            os.link(path.resolve(), dest)
        except OSError:
            with replacing(dest) as fresh:
                shutil.copyfile(path, fresh)


def complete(folder: Path, plan: Plan, source: Path) -> None:
    """Everything that a program needs to load the weights in `folder` is beside them; what the source has of it, is copied."""
    trunk = [file for file in plan.files if file.name != MTP_FILE]
    if len(trunk) > 1:
        placed = {tensor.name: file.name for file in trunk for tensor in file.tensors}
        total_bytes = sum(tensor.nbytes for file in trunk for tensor in file.tensors)
        _write_json(folder / INDEX_FILE, {"metadata": {"total_size": total_bytes}, "weight_map": placed})
    for name in COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    _write_json(folder / "config.json", plan.config)


def sign(folder: Path, facts: Facts, on_bytes: OnBytes) -> None:
    """The model card and the manifest, which names every byte of the folder but its own, are there."""
    (folder / CARD_FILE).write_text(card(facts), encoding="utf-8")
    tensors = tensor_digests(Checkpoint.open(folder).tensors.values(), on_bytes)
    others = sorted(p for p in folder.iterdir() if p.suffix != ".safetensors" and p.name != MANIFEST_FILE)
    Manifest(
        source=facts.source,
        recipe=facts.recipe.name,
        loss={module: loss.relative for module, loss in facts.losses.items()},
        quality=asdict(facts.quality) if facts.quality else None,
        tensors=tensors,
        files={path.name: file_digest(path) for path in others},
    ).write(folder)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
