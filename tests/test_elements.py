"""Every form that published weights come in is read as the values it stands for."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_qnext.errors import CheckpointError
from mlx_qnext.safetensors_header import TensorInfo
from quantize.elements import block_scales, read_bytes, scale_shape, to_fp32


@pytest.mark.parametrize(("dtype", "name"), [(mx.bfloat16, "BF16"), (mx.float16, "F16"), (mx.float32, "F32")])
def test_plain_floats_are_read_exactly(dtype: mx.Dtype, name: str) -> None:
    array = mx.random.normal((64,)).astype(dtype)
    content = np.frombuffer(bytes(memoryview(array.view(mx.uint8))), np.uint8)
    assert (to_fp32(content, name) == np.array(array.astype(mx.float32))).all()


def test_every_fp8_code_is_the_value_that_mlx_gives_it() -> None:
    codes = np.arange(256, dtype=np.uint8)
    numbers = codes[(codes & 127) != 127]
    expected = np.array(mx.from_fp8(mx.array(numbers), mx.float32))
    assert (to_fp32(numbers, "F8_E4M3") == expected).all()
    assert np.isnan(to_fp32(np.array([0x7F, 0xFF], np.uint8), "F8_E4M3")).all()


@pytest.mark.parametrize("shape", [(128, 128), (300, 520), (1, 64)])
def test_each_block_of_128_has_its_scale_whichever_rows_are_asked_for(shape: tuple[int, int]) -> None:
    scale = np.arange(1, 1 + np.prod(scale_shape(shape)), dtype=np.float32).reshape(scale_shape(shape))
    expected = np.array([[scale[i // 128, j // 128] for j in range(shape[1])] for i in range(shape[0])])
    for first, rows in ((0, shape[0]), (shape[0] // 2, shape[0] - shape[0] // 2)):
        assert (block_scales(scale, first, rows, shape[1]) == expected[first : first + rows]).all()


def test_a_file_that_ends_too_early_is_said_to_have_changed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"12345678")
    with pytest.raises(CheckpointError, match="changed while it was read"):
        read_bytes(path, TensorInfo("weight", path, "BF16", (8,), 0, 16), 0, 16)
