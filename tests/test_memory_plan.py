"""A plan of memory adds up, gives experts what remains, and names what is enough and what fits where there is too little."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest
from builders import write_hf_checkpoint, write_mlx_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from benchmarks.synthetic import FULL_SHAPE, SyntheticCheckpoint
from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.config import ModelConfig
from mlx_qnext.errors import MemoryLimitError, UsageError
from mlx_qnext.experts import parts, workspace
from mlx_qnext.experts import plan as planning
from mlx_qnext.experts.plan import (
    AUTO_CONTEXTS,
    LEAST_CHECKPOINTS,
    MOST_CHECKPOINTS,
    MemoryNeeds,
    MemoryPlan,
    plan_memory,
)
from mlx_qnext.mlx_lm_parts import ArraysCache, KVCache
from mlx_qnext.model import linear
from mlx_qnext.model.loading import build_model
from mlx_qnext.ops.device import Backend

GB = 10**9
FULL = SyntheticCheckpoint.make(FULL_SHAPE, mtp=True)
CONFIG = ModelConfig.from_dict(FULL.config)


STATE = 36 * (32 * 128 * 128 * 4 + 3 * 8192 * 4)


def needs(
    context_tokens: int | None = 8192, checkpoint: Checkpoint = FULL, kv_bits: int | None = None
) -> MemoryNeeds:
    return MemoryNeeds.of(checkpoint, ModelConfig.from_dict(checkpoint.config), context_tokens, kv_bits)


def auto(total_bytes: int, kv_bits: int | None = None) -> int:
    return MemoryNeeds.within_reach(FULL, CONFIG, total_bytes, kv_bits).context_tokens


def held_bytes(arrays: object) -> int:
    return sum(array.nbytes for _, array in tree_flatten(arrays) if isinstance(array, mx.array))


def on(monkeypatch: pytest.MonkeyPatch, backend: Backend) -> None:
    monkeypatch.setattr(workspace, "backend", lambda: backend)
    if backend is not Backend.CPU:
        monkeypatch.setattr(parts, "compute_dtype", lambda stored: stored)


class TestOfTheFullModel:
    """48 layers and an MTP head, 4 bits: a plan for the CPU, where scales are widened to fp32."""

    def test_eight_gigabytes_leave_more_than_half_to_experts(self) -> None:
        plan = needs().within(8 * GB, 8 * GB)
        assert 4.0e9 <= plan.experts_bytes <= 5.0e9
        assert plan.expert_bytes == 1_966_080
        assert len(plan.slots) == 49
        assert "mtp.layers.0.mlp" in plan.slots
        assert not plan.complete
        assert plan.share == pytest.approx(0.087, abs=0.002)

    def test_keys_and_values_are_those_of_the_attention_layers_and_the_head(self) -> None:
        assert needs(8192).cache_bytes == 13 * 2 * 2 * 256 * 4 * 8192
        assert needs(8193).cache_bytes == 13 * 2 * 2 * 256 * 4 * (8192 + 256)

    @pytest.mark.parametrize(("bits", "of_a_head"), [(8, 256 + 2 * 4 * 4), (4, 128 + 2 * 4 * 4)])
    def test_quantised_ones_are_packed_numbers_scales_and_biases_but_for_the_heads(
        self, bits: int, of_a_head: int
    ) -> None:
        assert needs(8192, kv_bits=bits).cache_bytes == 2 * 2 * 8192 * (12 * of_a_head + 256 * 4)

    def test_states_are_those_of_a_session_and_of_all_its_checkpoints(self) -> None:
        plan = needs().within(8 * GB, 8 * GB)
        assert (plan.checkpoints, plan.state_bytes) == (4, 5 * STATE)

    def test_a_mac_with_64_gib_holds_all_of_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        on(monkeypatch, Backend.METAL)
        recommended = 0.75 * (64 << 30)
        assert needs().within(int(recommended), None).complete

    def test_a_mac_with_16_gib_holds_some_of_it_and_reads_long_prompts_in_few_spans(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        on(monkeypatch, Backend.METAL)
        plan = needs(32768).within(int(0.67 * (16 << 30)), None)
        assert not plan.complete
        assert plan.share > 0.1
        assert plan.span_tokens >= 4096
        assert plan.chunk_tokens == 2048

    def test_a_context_longer_than_the_models_is_refused_with_its_limit(self) -> None:
        assert needs(262_144)
        with pytest.raises(
            UsageError, match=r"262145 tokens .* this model has 262144: .* YaRN, with rope_scaling"
        ):
            needs(262_145)

    def test_a_stretched_one_may_be_longer(self) -> None:
        scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 262_144}
        config = ModelConfig.from_dict(FULL.config | {"rope_scaling": scaling})
        assert MemoryNeeds.of(FULL, config, 4 * 262_144).context_tokens == 4 * 262_144

    @pytest.mark.parametrize("bits", [16, 6, 0])
    def test_other_bits_are_refused(self, bits: int) -> None:
        with pytest.raises(UsageError, match=f"of {bits} bits are asked for, expected 8 or 4"):
            needs(kv_bits=bits)

    def test_a_context_of_nothing_is_refused(self) -> None:
        with pytest.raises(UsageError, match="context of 0 tokens"):
            needs(0)


class TestForEveryTotal:
    @settings(deadline=None)
    @given(st.integers(0, 100 * GB), st.integers(1, 262_144))
    def test_a_plan_adds_up(self, more: int, context_tokens: int) -> None:
        needed = needs(context_tokens)
        plan = needed.within(needed.smallest_bytes + more, None)
        assert plan.taken_bytes <= plan.total_bytes
        assert 1 <= plan.span_tokens <= workspace.MOST_SPAN_TOKENS
        assert min(256, context_tokens) == plan.chunk_tokens
        assert LEAST_CHECKPOINTS <= plan.checkpoints <= MOST_CHECKPOINTS
        assert plan.checkpoints == LEAST_CHECKPOINTS or plan.checkpoints * STATE <= plan.total_bytes // 64
        assert plan.state_bytes == (plan.checkpoints + 1) * STATE
        slots = plan.slots.values()
        assert needed.least_slots <= min(slots) <= max(slots) <= needed.num_experts
        assert max(slots) - min(slots) <= 1

    @settings(deadline=None)
    @given(st.integers(0, 60 * GB), st.integers(0, GB))
    def test_less_than_an_expert_a_layer_is_wasted_where_they_do_not_all_fit(
        self, more: int, context_more: int
    ) -> None:
        needed = needs(4096 + context_more % 4096)
        plan = needed.within(needed.smallest_bytes + more, None)
        assert plan.complete or plan.total_bytes - plan.taken_bytes < plan.expert_bytes

    def test_the_smallest_works_and_a_byte_less_is_refused_with_what_would_be_enough(self) -> None:
        needed = needs()
        plan = needed.within(needed.smallest_bytes, None)
        assert min(plan.slots.values()) == CONFIG.num_experts_per_tok
        with pytest.raises(
            MemoryLimitError,
            match=r"needs 4\.43 GB .* 8192 tokens, and 4\.42 GB are given to it: a context of at most 7936 tokens fits",
        ):
            needed.within(needed.smallest_bytes - 1, needed.smallest_bytes - 1)
        assert needed.within(4_430_000_000, None)

    def test_a_machine_that_can_spare_too_little_is_told_so(self) -> None:
        with pytest.raises(
            MemoryLimitError,
            match=r"machine can spare 2\.00 GB: close other programs; not even .* 256 tokens",
        ):
            needs().within(2 * GB, None)

    @pytest.mark.parametrize("backend", Backend)
    def test_all_experts_find_room_before_spans_get_longer(
        self, monkeypatch: pytest.MonkeyPatch, backend: Backend
    ) -> None:
        on(monkeypatch, backend)
        needed = needs()
        experts = needed.num_experts * sum(needed.expert_bytes.values())
        least = needed.always_bytes(LEAST_CHECKPOINTS) + experts + needed.workspace.least_with_all
        plan = needed.within(least, None)
        assert (plan.complete, plan.chunk_tokens) == (True, 256)
        assert plan.workspace_bytes >= needed.workspace.for_chunk(256)
        assert not needed.within(least - 1, None).complete
        wide = needed.within(least + 10 * GB, None)
        assert (wide.span_tokens, wide.chunk_tokens) == (8192, needed.workspace.chunks[0])
        assert wide.checkpoints > LEAST_CHECKPOINTS

    @settings(deadline=None)
    @given(st.integers(0, 8 * GB))
    def test_neither_chunks_nor_checkpoints_cost_a_complete_model_an_expert(self, more: int) -> None:
        needed = needs()
        plan = needed.within(needed.complete_bytes + more, None)
        assert plan.complete
        assert plan.taken_bytes <= plan.total_bytes


class TestOfWhatIsStored:
    @pytest.mark.parametrize(
        "write",
        [
            write_hf_checkpoint,
            lambda folder: write_mlx_checkpoint(folder, mtp="inside"),
            lambda folder: write_mlx_checkpoint(folder, bits=8, group_size=64),
            lambda folder: write_hf_checkpoint(folder, {"mlp_only_layers": [1, 2]}, dtype=mx.float32),
            lambda folder: write_hf_checkpoint(folder, {"num_experts": 0, "num_experts_per_tok": 0}),
        ],
        ids=["hf", "mlx", "mlx-8bit", "some-dense", "all-dense"],
    )
    def test_trunk_and_experts_are_what_loading_makes_of_them(self, write, tmp_path: Path) -> None:
        checkpoint = Checkpoint.open(write(tmp_path / "model"))
        needed = needs(None, checkpoint)
        model, _ = build_model(checkpoint)
        experts = needed.num_experts * sum(needed.expert_bytes.values())
        assert needed.trunk_bytes + experts == held_bytes(model.parameters())

    def test_a_model_without_experts_is_complete_as_soon_as_it_fits(self, tmp_path: Path) -> None:
        dense = {"num_experts": 0, "num_experts_per_tok": 0}
        checkpoint = Checkpoint.open(write_hf_checkpoint(tmp_path / "model", dense))
        needed = needs(None, checkpoint)
        plan = needed.within(needed.smallest_bytes, None)
        assert (plan.complete, plan.share, plan.slots, plan.experts_bytes) == (True, 1.0, {}, 0)
        assert needed.smallest_bytes - plan.taken_bytes < 10_000_000

    @pytest.mark.parametrize("bits", [None, 8, 4])
    def test_keys_values_and_states_are_those_of_real_caches(self, bits: int | None, tmp_path: Path) -> None:
        wide = {"hidden_size": 32, "head_dim": 128, "max_position_embeddings": 300}
        checkpoint = Checkpoint.open(write_hf_checkpoint(tmp_path / "model", wide, mtp=True))
        needed = needs(300, checkpoint, bits)
        model, config = build_model(checkpoint)
        head, cache = KVCache(), model.make_cache(bits)
        entries = mx.zeros((1, config.num_key_value_heads, 300, config.head_dim))
        head.update_and_fetch(entries, entries)
        mx.eval(model.hidden(mx.zeros((1, 300), mx.int32), cache))
        recurrent = [layer for layer in cache if isinstance(layer, ArraysCache)]
        growing = [(layer.keys, layer.values) for layer in [*cache, head] if layer not in recurrent]
        assert held_bytes(growing) == needed.cache_bytes
        assert held_bytes([layer.cache for layer in recurrent]) == needed.state_bytes

    def test_heads_that_fill_no_group_cannot_be_quantised(self, tmp_path: Path) -> None:
        checkpoint = Checkpoint.open(write_hf_checkpoint(tmp_path / "model"))
        with pytest.raises(UsageError, match="heads of 32 channels are no whole groups of 64"):
            needs(None, checkpoint, 8)

    def test_layers_of_other_sizes_get_as_many_slots(self) -> None:
        needed = needs()
        uneven = {path: size * (1 + n % 2) for n, (path, size) in enumerate(needed.expert_bytes.items())}
        plan = replace(needed, expert_bytes=uneven).within(8 * GB, None)
        assert max(plan.slots.values()) - min(plan.slots.values()) <= 1
        assert plan.expert_bytes == 2 * 1_966_080
        assert plan.experts_bytes == sum(uneven[path] * slots for path, slots in plan.slots.items())


class TestOfTheContext:
    @pytest.mark.parametrize(
        ("total_bytes", "context_tokens"), [(13 * GB, 16_384), (14 * GB, 32_768), (6 * GB, 8192), (GB, 8192)]
    )
    def test_without_asking_its_cache_takes_an_eighth_at_most(
        self, total_bytes: int, context_tokens: int
    ) -> None:
        assert auto(total_bytes) == context_tokens

    @settings(deadline=None)
    @given(st.integers(6 * GB, 100 * GB), st.sampled_from([None, 8, 4]))
    def test_without_asking_it_is_the_longest_of_those_that_may_be(
        self, total: int, bits: int | None
    ) -> None:
        chosen = auto(total, bits)
        assert chosen in AUTO_CONTEXTS
        assert chosen == 8192 or needs(chosen, kv_bits=bits).cache_bytes <= total // 8
        longer = [tokens for tokens in AUTO_CONTEXTS if tokens > chosen]
        assert all(needs(tokens, kv_bits=bits).cache_bytes > total // 8 for tokens in longer)

    def test_without_asking_it_is_never_longer_than_the_models(self, tmp_path: Path) -> None:
        checkpoint = Checkpoint.open(write_hf_checkpoint(tmp_path / "model"))
        config = ModelConfig.from_dict(checkpoint.config)
        assert MemoryNeeds.within_reach(checkpoint, config, 100 * GB).context_tokens == 512

    @settings(deadline=None)
    @given(st.integers(4_100_000_000, 70 * GB), st.sampled_from([None, 8]), st.booleans())
    def test_the_largest_that_fits_fits_and_a_step_more_does_not(
        self, total: int, bits: int | None, complete: bool
    ) -> None:
        def plan(tokens: int) -> MemoryPlan:
            return needs(tokens, kv_bits=bits).within(total, None)

        largest = needs(None, kv_bits=bits).largest_context(total, complete=complete)
        if complete:
            assert largest is None or plan(largest).complete
            assert largest in (None, CONFIG.context_limit) or not plan(largest + 256).complete
            return
        assert largest is not None
        assert plan(largest)
        if largest < CONFIG.context_limit:
            with pytest.raises(MemoryLimitError, match=f"at most {largest} tokens"):
                plan(largest + 256)

    def test_where_nothing_fits_there_is_no_largest(self) -> None:
        assert needs().largest_context(3_900_000_000) is None
        assert needs().largest_context(40 * GB, complete=True) is None

    @pytest.mark.parametrize("backend", Backend)
    def test_the_workspace_does_not_grow_with_it_beyond_one_block_of_scores(
        self, monkeypatch: pytest.MonkeyPatch, backend: Backend
    ) -> None:
        on(monkeypatch, backend)
        long, longer = (needs(tokens).workspace for tokens in (65_536, 262_144))
        assert long.for_chunk(2048) == longer.for_chunk(2048)
        assert long.for_span(8192, 2048) == longer.for_span(8192, 2048)


def test_experts_are_planned_to_be_unpacked_when_they_are() -> None:
    assert workspace._UNPACK_FROM_ROWS == linear._UNPACK_FROM_ROWS_PER_EXPERT


def test_this_machines_plan_is_for_what_it_can_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "allotted_bytes", lambda asked: asked or 20 * GB)
    assert plan_memory(FULL, CONFIG) == needs(32_768).within(20 * GB, None)
    assert plan_memory(FULL, CONFIG, 9 * GB, 4096, 8) == needs(4096, kv_bits=8).within(9 * GB, 9 * GB)
