"""What many tests share: the embedded model, loaded once."""

from __future__ import annotations

from pathlib import Path

import pytest

import mlx_qnext
from mlx_qnext import Engine


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The embedded model: trained, quantised, small."""
    return mlx_qnext.load("demo")


@pytest.fixture(scope="session")
def bf16_checkpoint() -> Path:
    """The embedded model before quantisation, as published checkpoints are laid out."""
    return Path(__file__).parent.parent / "demo" / "checkpoint"
