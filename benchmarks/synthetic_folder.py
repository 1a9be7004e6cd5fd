"""Writes a checkpoint of random weights as a folder that qnext and mlx-lm load, as fast as the disk takes it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.random_weights import RandomWeights
from benchmarks.shape import Config, quantised, tensors
from mlx_qnext.checkpoint import INDEX_FILE, MTP_FILE, MTP_PREFIX
from mlx_qnext.disk import writing
from mlx_qnext.errors import OutputError, UsageError
from quantize.output_files import OutputFile, OutputWriter, lay_out

SHARD_BYTES = 5_000_000_000
# Qwen's <|im_end|> and <|endoftext|>.
EOS_IDS = (151645, 151643)
SAMPLING = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
TEMPLATE = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
_REPORTS = 20

# Takes the bytes written so far, and those there will be.
Progress = Callable[[int, int], None]


def write_folder(
    dest: Path,
    config: Config,
    weights: RandomWeights,
    progress: Progress | None = None,
    *,
    chat: bool = False,
) -> None:
    """`dest` holds the whole checkpoint; after a failure it is not there.

    Args:
        config: a `config.json` without its quantisation.
        chat: with the Qwen vocabulary and a ChatML template too, about 11 MB.

    Raises:
        UsageError: `dest`, or the folder in which it is made, holds something already.
        OutputError: the disk has no room for it, or does not take it.
    """
    files = _files(weights)
    with _made(dest, sum(file.nbytes for file in files)) as folder:
        if chat:
            _write_tokenizer(folder)
        _write_weights(folder, files, weights, progress or (lambda _done, _total: None))
        _write_index(folder, files)
        # Last: without it, nothing takes a folder for a model.
        _write_json(folder / "config.json", quantised(config, weights.modules))


def _files(weights: RandomWeights) -> tuple[OutputFile, ...]:
    stored = (info for path, shape in weights.modules.items() for info in tensors(path, shape))
    named = ((MTP_FILE if info.name.startswith(MTP_PREFIX) else "model.safetensors", info) for info in stored)
    return lay_out(named, SHARD_BYTES, MTP_FILE)


@contextmanager
def _made(dest: Path, nbytes: int) -> Iterator[Path]:
    """A folder beside `dest`, which becomes `dest` at the end, or nothing."""
    partial = dest.with_name(dest.name + ".partial")
    for folder in (dest, partial):
        if folder.exists():
            raise UsageError(f"{folder} exists: name a new folder, or remove it first.")
    with writing(dest):
        partial.mkdir(parents=True)
        try:
            _check_room(dest, nbytes, shutil.disk_usage(partial).free)
            yield partial
            partial.rename(dest)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _check_room(dest: Path, nbytes: int, free_bytes: int) -> None:
    if nbytes > free_bytes:
        raise OutputError(
            f"{dest} needs {nbytes / 1e9:.1f} GB, and {free_bytes / 1e9:.1f} GB are free: free some space, or ask for fewer "
            "layers."
        )


def _write_weights(
    folder: Path, files: Sequence[OutputFile], weights: RandomWeights, progress: Progress
) -> None:
    """In one thread: random bits come faster than disks take them."""
    stored = [tensor for file in files for tensor in file.tensors]
    total, done, reported = sum(tensor.nbytes for tensor in stored), 0, 0
    with OutputWriter(folder, files) as writer:
        for tensor in stored:
            start = 0
            for piece in weights.pieces(tensor):
                writer.write(tensor.name, start, piece, row_bytes=1)
                start += len(piece)
            done += tensor.nbytes
            if done * _REPORTS // total > reported:
                reported = done * _REPORTS // total
                progress(done, total)
        writer.flush()


def _write_index(folder: Path, files: Sequence[OutputFile]) -> None:
    trunk = [file for file in files if file.name != MTP_FILE]
    placed = {tensor.name: file.name for file in trunk for tensor in file.tensors}
    total = sum(tensor.nbytes for file in trunk for tensor in file.tensors)
    _write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": placed})


def _write_tokenizer(folder: Path) -> None:
    # Seconds, and only here.
    from tests.qwen_vocabulary import qwen_vocabulary

    qwen_vocabulary().save(str(folder / "tokenizer.json"), pretty=False)
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "tokenizer_class": "Qwen2Tokenizer"}
    _write_json(folder / "tokenizer_config.json", names)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    _write_json(folder / "generation_config.json", {"eos_token_id": list(EOS_IDS), **SAMPLING})


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
