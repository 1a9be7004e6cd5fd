"""Trains the demo model for a given time.

    python -m demo.train FOLDER --tokenizer TOKENIZER_FOLDER --seconds 420

On a CPU, `--micro` trains a far smaller model, to try the recipe. FOLDER receives the checkpoint after half, three
quarters and all of the time, and train.log.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from demo import export
from demo.architecture import MICRO, Architecture
from demo.fake_quant import quantised, quantised_parameters
from demo.layout import plain_layout
from demo.model import DemoModel
from demo.muon import Optimizers
from demo.objective import Inputs, losses
from demo.packing import Batch, batches
from demo.tokenizer import END, END_OF_TEXT, token_id

MUON_RATE, ADAM_RATE = 0.02, 0.003
WARM_UP_STEPS, DECAY_FROM, QUANTISED_FROM = 100, 0.5, 0.7
SAVE_AT = (0.5, 0.75)
LOG_EVERY = 200


@dataclass(frozen=True)
class Settings:
    """One training run."""

    folder: Path
    tokenizer: Path
    seconds: float
    until: float
    rows: int
    length: int
    workers: int
    seed: int
    micro: bool
    delta_rule: str
    graph: bool


def settings() -> Settings:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of tokenizer.json")
    parser.add_argument("--seconds", type=float, default=420, help="time spent in training steps")
    parser.add_argument("--until", type=float, default=0, help="end at this Unix time instead")
    parser.add_argument("--rows", type=int, default=24, help="rows in a batch")
    parser.add_argument("--length", type=int, default=2048, help="tokens in a row")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--micro", action="store_true", help="a far smaller model")
    parser.add_argument("--delta-rule", choices=("fla", "torch"), default="fla", help="kernels on a GPU")
    parser.add_argument(
        "--no-graph", dest="graph", action="store_false", help="launch every kernel by itself"
    )
    return Settings(**vars(parser.parse_args()))


class Log:
    """Prints lines with the seconds since the start, and keeps them in a file."""

    def __init__(self, file: Path) -> None:
        self.start, self.file = time.time(), file.open("w")

    def __call__(self, line: str) -> None:
        """Write one line."""
        line = f"[{time.time() - self.start:6.1f}] {line}"
        print(line, flush=True)
        print(line, file=self.file, flush=True)


@dataclass(frozen=True)
class Trainer:
    """A model with everything one step needs; `run` performs the step on the values now in `inputs`."""

    model: DemoModel
    optimizers: Optimizers
    inputs: Inputs
    strength: Tensor
    run: Callable[[], Tensor]

    def step(self, batch: Inputs, rate: float, strength: float) -> Tensor:
        """Learn from a batch; return the cross-entropies before the step, which the next step overwrites."""
        self.inputs.copy_(batch)
        self.strength.fill_(strength)
        self.optimizers.set_rates(MUON_RATE * rate, ADAM_RATE * rate)
        return self.run()


def trainer(s: Settings, model: DemoModel, example: Inputs, log: Log) -> Trainer:
    """Return a trainer for batches shaped like `example`, with its kernels compiled and warm."""
    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    model = model.to(device)
    inputs, strength, optimizers = example.to(device), torch.zeros((), device=device), Optimizers(model)
    rounded, taps = quantised_parameters(model), model.architecture.linear_conv_kernel_dim
    layout_of = plain_layout
    if on_gpu:
        from demo.gpu import compile_regions, gpu_layouts

        layout_of = gpu_layouts(_gpu_delta_rule(s.delta_rule, log))
        compile_regions()

    def run() -> Tensor:
        model.zero_grad(set_to_none=True)
        with quantised(rounded, strength):
            with torch.autocast(device, torch.bfloat16, enabled=on_gpu):
                total, entropies = losses(model, inputs, layout_of(inputs.chat, taps))
            total.backward()
        optimizers.step()
        return entropies

    run()
    log("first step done")
    if on_gpu and s.graph:
        from demo.gpu import captured

        run = captured(run)
        log(f"step captured; {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    return Trainer(model, optimizers, inputs, strength, run)


def _gpu_delta_rule(kind: str, log: Log) -> Callable[..., Tensor]:
    from demo import delta_rule, fla_delta_rule

    if kind == "fla":
        rule = fla_delta_rule.checked()
        log("fla's delta rule agrees with the plain one")
        return rule

    def plain(*inputs: Tensor) -> Tensor:
        with torch.autocast("cuda", enabled=False):
            return delta_rule.chunked(*inputs)[0]

    return plain


def learning_rate(step: int, progress: float) -> float:
    """Return the share of the full rate: a short warm-up, constant, then linearly to zero."""
    return min(1.0, (step + 1) / WARM_UP_STEPS, (1 - progress) / (1 - DECAY_FROM))


def save(s: Settings, model: DemoModel, log: Log) -> None:
    """Write the checkpoint beside its place first, so that an interrupted write leaves the one before."""
    tokenizer = Tokenizer.from_file(str(s.tokenizer / "tokenizer.json"))
    fresh = s.folder.parent / f".{s.folder.name}-new"
    export.save(model, fresh, token_id(tokenizer, END), token_id(tokenizer, END_OF_TEXT))
    target = s.folder / "checkpoint"
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(fresh, target)
    log(f"saved {target}")


def learn(s: Settings, t: Trainer, data: Iterator[Batch], log: Log) -> None:
    """Run training steps until the time is over."""
    rng, begin = np.random.default_rng(s.seed), time.time()
    seconds = s.until - begin if s.until else s.seconds
    step, saves, last, tokens = 0, list(SAVE_AT), begin, s.rows * s.length
    log(f"training for {seconds:.0f} s")
    while (progress := (time.time() - begin) / seconds) < 1:
        batch = Inputs.of(next(data), rng)
        entropies = t.step(batch, learning_rate(step, progress), float(progress >= QUANTISED_FROM))
        step += 1
        if step % LOG_EVERY == 0 or step == 20:
            shown = " ".join(f"{x:.4f}" for x in entropies.tolist())
            speed = (LOG_EVERY if step > 20 else 20) * tokens / (time.time() - last) / 1e6
            last = time.time()
            log(f"step {step} {progress:.0%} loss {shown}, {speed:.2f} M tokens/s")
            if not np.isfinite(float(entropies[0])):
                raise FloatingPointError(f"the loss is {float(entropies[0])} at step {step}")
        if saves and progress > saves[0]:
            saves.pop(0)
            save(s, t.model, log)
    log(f"{step} steps, {step * tokens / 1e6:.0f} M tokens in {time.time() - begin:.0f} s")
    save(s, t.model, log)


def main() -> None:
    """Train and export."""
    s = settings()
    s.folder.mkdir(parents=True, exist_ok=True)
    log = Log(s.folder / "train.log")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    data = batches(s.tokenizer / "tokenizer.json", s.seed, s.workers, s.rows, s.length)
    torch.manual_seed(s.seed)
    torch.set_float32_matmul_precision("high")
    described = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    log(f"torch {torch.__version__} on {described}; {json.dumps(vars(s), default=str)}")
    model = DemoModel(MICRO if s.micro else Architecture())
    log(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")
    example = Inputs.of(next(data), np.random.default_rng(s.seed))
    learn(s, trainer(s, model, example, log), data, log)


if __name__ == "__main__":
    main()
