"""What many tests share: the embedded model, loaded once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest

import mlx_qnext
from mlx_qnext import Engine


@pytest.fixture(scope="session", autouse=True)
def on_the_cpu() -> Iterator[None]:
    """There the engine computes in fp32, which the tolerances are about, on every machine; Metal's tests turn to the GPU."""
    device = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(device)


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing that tests or the programs they start remember or save gets among the user's own, whose settings do not count."""
    os.environ["QNEXT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["QNEXT_CONFIG"] = str(tmp_path_factory.mktemp("config") / "config.toml")
    os.environ["QNEXT_HISTORY"] = str(tmp_path_factory.mktemp("history") / "history.jsonl")
    os.environ["QNEXT_SESSIONS"] = str(tmp_path_factory.mktemp("sessions"))


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The embedded model: trained, quantised, small."""
    return mlx_qnext.load("demo")


@pytest.fixture(scope="session")
def bf16_checkpoint() -> Path:
    """The embedded model before quantisation, as published checkpoints are laid out."""
    return Path(__file__).parent.parent / "demo" / "checkpoint"
