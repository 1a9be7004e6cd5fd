"""From the shell to the first token of a short prompt: experts as they are needed, all weights first, and mlx-lm.

PYTHONPATH=. python benchmarks/first_token.py FOLDER [--prompt "What is 47 + 85?"] [--rounds 3] [--minutes 5]

Every run is a process of its own, and the weights are dropped from the page cache before it; programs and libraries are not.
The model has to fit into memory, or two of the three only show that it does not.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from measure import GREEDY, machine
from page_cache import forget

# A program that reads a model does not see that it takes the machine down with it: this much is left to everything else.
_LEFT_BYTES = 2_000_000_000


def main() -> None:
    arguments = _arguments()
    folder, prompt = str(arguments.folder), arguments.prompt
    if arguments.only is not None:
        _ONLY[arguments.only](arguments.folder, arguments.prompt)
        return
    lazily = [sys.executable, "-m", "cli", "generate", prompt, "--model", folder, "--temp", "0"]
    itself = [sys.executable, __file__, folder, "--prompt", prompt, "--only"]
    cases = {
        "qnext, experts as they are needed": [*lazily, "--max-tokens", "1", "--draft", "0", "--json"],
        "qnext, all weights first": [*itself, "resident"],
        "mlx-lm": [*itself, "peer"],
    }
    print(f"{machine()}\n\n| | median s | each |\n|---|---:|---|", flush=True)
    for name, command in cases.items():
        try:
            times = [_first_output(command, arguments) for _ in range(arguments.rounds)]
        except _NoTokenError as why:
            print(f"| {name} | none | {why} |", flush=True)
            continue
        print(f"| {name} | {median(times):.2f} | {', '.join(f'{s:.2f}' for s in times)} |", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prompt", default="What is 47 + 85?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=5.0, help="after which a run is given up")
    parser.add_argument("--only", choices=sorted(_ONLY), help=argparse.SUPPRESS)
    return parser.parse_args()


class _NoTokenError(Exception):
    """A program that was given up, or that ended without a token."""


def _first_output(command: list[str], arguments: argparse.Namespace) -> float:
    """Seconds from the start of a program until it prints; each prints when it has a token.

    Raises:
        _NoTokenError: it ran into the limit of time or of memory.
    """
    forget(arguments.folder)
    with TemporaryDirectory() as cache:
        start = perf_counter()
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"QNEXT_CACHE": cache},
            preexec_fn=_limit_memory,
        )
        try:
            out, err = process.communicate(timeout=60 * arguments.minutes)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise _NoTokenError(f"given up after {arguments.minutes:g} minutes") from None
        elapsed = perf_counter() - start
    if process.returncode or not out:
        last = (err.decode(errors="replace").strip().splitlines() or ["killed"])[-1]
        raise _NoTokenError(f"exit code {process.returncode}: {last}")
    return elapsed


def _limit_memory() -> None:
    """Address space for this process: what the machine has, less a little."""
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") - _LEFT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _resident(folder: Path, text: str) -> None:
    from mlx_qnext import load_model
    from mlx_qnext.cache.hybrid import HybridCache
    from mlx_qnext.generate.prefill import prefill
    from mlx_qnext.generate.sampler import Sampler
    from mlx_qnext.generate.timeline import Timeline
    from mlx_qnext.tokenizer import Tokenizer

    model, config = load_model(folder)
    tokenizer = Tokenizer.from_folder(folder)
    prompt = tokenizer.prompt([{"role": "user", "content": text}]).token_ids
    *_, read = prefill(model, Timeline(HybridCache(model.make_cache())), prompt)
    assert read.hidden is not None
    token = Sampler(GREEDY, config.vocab_size, [], seed=0)(model.logits(read.hidden)[0, -1]).item()
    assert isinstance(token, int)
    print(tokenizer.decode([token]), flush=True)


def _peer(folder: Path, text: str) -> None:
    from mlx_lm import load, stream_generate

    model, tokenizer = load(str(folder))[:2]
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
    print(next(iter(stream_generate(model, tokenizer, prompt, max_tokens=1))).token, flush=True)


_ONLY = {"resident": _resident, "peer": _peer}


if __name__ == "__main__":
    main()
