"""A plan of memory adds up, gives experts what remains, and says what would be enough where there is too little."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest
from builders import write_hf_checkpoint, write_mlx_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from benchmarks.synthetic import FULL_SHAPE, SyntheticCheckpoint
from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.config import ModelConfig
from mlx_qnext.errors import MemoryLimitError, UsageError
from mlx_qnext.experts import plan as planning
from mlx_qnext.experts import pool, workspace
from mlx_qnext.experts.plan import MemoryNeeds, plan_memory
from mlx_qnext.generate import prefill, timeline
from mlx_qnext.model import linear
from mlx_qnext.model.loading import build_model
from mlx_qnext.ops.device import Backend

GB = 10**9
FULL = SyntheticCheckpoint.make(FULL_SHAPE, mtp=True)
CONFIG = ModelConfig.from_dict(FULL.config)


def needs(context_tokens: int = 8192, checkpoint: Checkpoint = FULL) -> MemoryNeeds:
    return MemoryNeeds.of(checkpoint, ModelConfig.from_dict(checkpoint.config), context_tokens)


def on(monkeypatch: pytest.MonkeyPatch, backend: Backend) -> None:
    monkeypatch.setattr(workspace, "backend", lambda: backend)
    if backend is not Backend.CPU:
        monkeypatch.setattr(planning, "compute_dtype", lambda stored: stored)


class TestOfTheFullModel:
    """48 layers and an MTP head, 4 bits: a plan for the CPU, where scales are widened to fp32."""

    def test_eight_gigabytes_leave_more_than_half_to_experts(self) -> None:
        plan = needs().within(8 * GB, 8 * GB)
        assert 4.5e9 <= plan.experts_bytes <= 5.5e9
        assert plan.expert_bytes == 1_966_080
        assert len(plan.slots) == 49
        assert "mtp.layers.0.mlp" in plan.slots
        assert not plan.complete
        assert plan.share == pytest.approx(0.093, abs=0.002)

    def test_keys_and_values_are_those_of_the_attention_layers_and_the_head(self) -> None:
        assert needs(8192).cache_bytes == 13 * 2 * 2 * 256 * 4 * 8192
        assert needs(8193).cache_bytes == 13 * 2 * 2 * 256 * 4 * (8192 + 256)

    def test_states_are_those_of_a_session_and_of_all_that_it_may_remember(self) -> None:
        state = 32 * 128 * 128 * 4 + 3 * 8192 * 4
        assert needs().state_bytes == 36 * state * (1 + timeline._MOST_SNAPSHOTS)

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

    def test_a_context_is_never_longer_than_the_models(self) -> None:
        assert needs(10**9) == needs(CONFIG.max_position_embeddings)

    def test_a_context_of_nothing_is_refused(self) -> None:
        with pytest.raises(UsageError, match="context of 0 tokens"):
            needs(0)


class TestForEveryTotal:
    @given(st.integers(0, 100 * GB), st.integers(1, 262_144))
    def test_a_plan_adds_up(self, more: int, context_tokens: int) -> None:
        needed = needs(context_tokens)
        plan = needed.within(needed.smallest_bytes + more, None)
        assert plan.taken_bytes <= plan.total_bytes
        assert 1 <= plan.span_tokens <= workspace.MOST_SPAN_TOKENS
        slots = plan.slots.values()
        assert needed.least_slots <= min(slots) <= max(slots) <= needed.num_experts
        assert max(slots) - min(slots) <= 1

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
        with pytest.raises(MemoryLimitError, match=r"needs 4\.43 GB .* 8192 tokens, and 4\.42 GB are given"):
            needed.within(needed.smallest_bytes - 1, needed.smallest_bytes - 1)
        assert needed.within(4_430_000_000, None)

    def test_a_machine_that_can_spare_too_little_is_told_so(self) -> None:
        with pytest.raises(MemoryLimitError, match=r"machine can spare 2\.00 GB: close other programs"):
            needs().within(2 * GB, None)

    @pytest.mark.parametrize("backend", Backend)
    def test_all_experts_find_room_before_spans_get_longer(
        self, monkeypatch: pytest.MonkeyPatch, backend: Backend
    ) -> None:
        on(monkeypatch, backend)
        needed = needs()
        always = needed.trunk_bytes + needed.cache_bytes + needed.state_bytes + needed.headroom_bytes
        experts = needed.num_experts * sum(needed.expert_bytes.values())
        least = always + experts + max(needed.workspace.for_chunk(), needed.workspace.for_span(256))
        assert needed.within(least, None).complete
        assert needed.within(least, None).workspace_bytes >= needed.workspace.for_chunk()
        assert needed.within(least + 10 * GB, None).span_tokens == 8192


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
        needed = needs(checkpoint=checkpoint)
        model, _ = build_model(checkpoint)
        held = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
        assert needed.trunk_bytes + needed.num_experts * sum(needed.expert_bytes.values()) == held

    def test_a_model_without_experts_is_complete_as_soon_as_it_fits(self, tmp_path: Path) -> None:
        dense = {"num_experts": 0, "num_experts_per_tok": 0}
        checkpoint = Checkpoint.open(write_hf_checkpoint(tmp_path / "model", dense))
        needed = needs(checkpoint=checkpoint)
        plan = needed.within(needed.smallest_bytes, None)
        assert (plan.complete, plan.share, plan.slots, plan.experts_bytes) == (True, 1.0, {}, 0)
        assert needed.smallest_bytes - plan.taken_bytes < 10_000_000

    def test_layers_of_other_sizes_get_as_many_slots(self) -> None:
        needed = needs()
        uneven = {path: size * (1 + n % 2) for n, (path, size) in enumerate(needed.expert_bytes.items())}
        plan = replace(needed, expert_bytes=uneven).within(8 * GB, None)
        assert max(plan.slots.values()) - min(plan.slots.values()) <= 1
        assert plan.expert_bytes == 2 * 1_966_080
        assert plan.experts_bytes == sum(uneven[path] * slots for path, slots in plan.slots.items())


def test_chunks_and_waves_are_planned_as_they_are_computed() -> None:
    assert workspace._CHUNK_TOKENS == prefill._CHUNK_TOKENS
    assert workspace._WAVE_EXPERTS == pool._WAVE
    assert workspace._UNPACK_FROM_ROWS == linear._UNPACK_FROM_ROWS_PER_EXPERT


def test_this_machines_plan_is_for_what_it_can_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "allotted_bytes", lambda asked: asked or 20 * GB)
    assert plan_memory(FULL, CONFIG) == needs().within(20 * GB, None)
    assert plan_memory(FULL, CONFIG, 9 * GB, 4096) == needs(4096).within(9 * GB, 9 * GB)
