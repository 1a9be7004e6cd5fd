"""The trunk computes what transformers computes, on every shape and config of the grid, whichever way it is fed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import mlx.core as mx
import numpy as np
import pytest
from parity_cases import FOLDER, ParityCase, all_cases
from tolerances import CONTINUED, TRANSFORMERS_FP32

from mlx_qnext.mlx_lm_parts import ArraysCache, KVCache

CASES = all_cases()
SEQUENCES = [pytest.param(case, n, id=f"{case.name}-{n}") for case in CASES for n in case.lengths]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_sequence = pytest.mark.parametrize(("case", "length"), SEQUENCES)


@each_case
def test_vectors_are_those_the_manifest_describes(case: ParityCase) -> None:
    on_disk = {p.relative_to(FOLDER).as_posix() for p in (FOLDER / case.name).rglob("*") if p.is_file()}
    assert on_disk == {name for name, _ in case.files}
    for name, sha256 in case.files:
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == sha256, name


@each_sequence
def test_logits_equal_those_of_transformers(case: ParityCase, length: int) -> None:
    logits = case.model()(case.tokens(length))
    assert logits.dtype == mx.float32
    TRANSFORMERS_FP32.check(np.array(logits[0]), case.golden("logits", length), "logits")


@each_sequence
def test_hidden_states_are_those_after_the_final_norm(case: ParityCase, length: int) -> None:
    model = case.model()
    hidden = model.hidden(case.tokens(length))
    TRANSFORMERS_FP32.check(np.array(hidden[0]), case.golden("hidden", length), "hidden states")
    TRANSFORMERS_FP32.check(np.array(model.logits(hidden)[0]), case.golden("logits", length), "logits")


@each_sequence
def test_an_empty_cache_changes_nothing(case: ParityCase, length: int) -> None:
    model = case.model()
    logits = model(case.tokens(length), cache=model.make_cache())
    TRANSFORMERS_FP32.check(np.array(logits[0]), case.golden("logits", length), "logits")


@each_case
def test_uneven_chunks_and_single_tokens_give_what_the_whole_gives(case: ParityCase) -> None:
    model, tokens = case.model(), case.tokens(case.longest)
    cache = model.make_cache()
    pieces = [model(chunk, cache=cache) for chunk in uneven_chunks(tokens)]
    CONTINUED.check(np.array(mx.concatenate(pieces, axis=1)), np.array(model(tokens)), "logits")


@each_case
def test_hidden_states_continue_through_a_cache(case: ParityCase) -> None:
    model, tokens = case.model(), case.tokens(case.longest)
    cache = model.make_cache()
    cut = case.longest // 3
    pieces = [model.hidden(tokens[:, :cut], cache=cache), model.hidden(tokens[:, cut:], cache=cache)]
    whole = case.golden("hidden", case.longest)
    CONTINUED.check(np.array(mx.concatenate(pieces, axis=1)[0]), whole, "hidden states")


@each_case
def test_equal_rows_of_a_batch_give_equal_logits(case: ParityCase) -> None:
    model, tokens = case.model(), case.tokens(case.longest)
    logits = np.array(model(mx.concatenate([tokens, tokens])))
    golden = case.golden("logits", case.longest)
    for row in range(2):
        TRANSFORMERS_FP32.check(logits[row], golden, f"row {row}")


@each_case
def test_a_row_of_a_batch_does_not_see_its_neighbour(case: ParityCase) -> None:
    model, tokens = case.model(), case.tokens(case.longest)
    batch = mx.concatenate([tokens[:, ::-1], tokens])
    cache = model.make_cache()
    cut = case.longest // 2
    pieces = [model(batch[:, :cut], cache=cache), model(batch[:, cut:], cache=cache)]
    logits = mx.concatenate(pieces, axis=1)
    TRANSFORMERS_FP32.check(np.array(logits[1]), case.golden("logits", case.longest), "second row")


@each_case
def test_cache_is_mlx_lms_own_kind_for_every_layer(case: ParityCase) -> None:
    model = case.model()
    cache = model.make_cache()
    config = case.config()
    interval = config.get("full_attention_interval", 4)
    types = config.get("layer_types") or [
        "linear_attention" if (i + 1) % interval else "full_attention"
        for i in range(config["num_hidden_layers"])
    ]
    assert len(model.layers) == len(types)
    assert [type(c) for c in cache] == [KVCache if t == "full_attention" else ArraysCache for t in types]


@each_case
def test_recurrent_state_is_kept_in_fp32_at_its_full_shape(case: ParityCase) -> None:
    model, config = case.model(), case.config()
    cache = model.make_cache()
    model(case.tokens(case.longest), cache=cache)
    heads, key_heads = config["linear_num_value_heads"], config["linear_num_key_heads"]
    key_dim, value_dim = config["linear_key_head_dim"], config["linear_value_head_dim"]
    for layer_cache in cache:
        if isinstance(layer_cache, ArraysCache):
            window, state = layer_cache[0], layer_cache[1]
            channels = 2 * key_heads * key_dim + heads * value_dim
            assert window.shape == (1, config["linear_conv_kernel_dim"] - 1, channels)
            assert state.shape == (1, heads, value_dim, key_dim)
            assert state.dtype == mx.float32
        else:
            assert layer_cache.offset == case.longest


def uneven_chunks(tokens: mx.array) -> Iterator[mx.array]:
    """Chunks of 1, 2, 3, 11, 24, … tokens while they fit before the last twelve, which come one by one."""
    length, start = tokens.shape[1], 0
    for size in (1, 2, 3, 11, 24, 40, 65):
        if start + size <= length - 12:
            yield tokens[:, start : start + size]
            start += size
    if start < length - 12:
        yield tokens[:, start : length - 12]
    for position in range(max(start, length - 12), length):
        yield tokens[:, position : position + 1]
