"""config.json and generation_config.json: what is read, what is refused, and how the refusal reads."""

from __future__ import annotations

import json

import pytest
from builders import TINY
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_qnext.config import GenerationDefaults, ModelConfig, Precision, Quantization, RopeScaling
from mlx_qnext.errors import CheckpointError, QnextError, UnsupportedModelError

SIZES = [
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "linear_num_key_heads",
    "linear_num_value_heads",
    "linear_key_head_dim",
    "linear_value_head_dim",
    "linear_conv_kernel_dim",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "max_position_embeddings",
]

RELEASED = TINY | {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "intermediate_size": 5120,
    "num_attention_heads": 16,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "max_position_embeddings": 262144,
    "rope_theta": 10000000,
    "eos_token_id": 151645,
}


def without(*names: str) -> dict:
    return {name: value for name, value in TINY.items() if name not in names}


def test_the_released_architecture_has_twelve_full_attention_layers_of_forty_eight():
    config = ModelConfig.from_dict(RELEASED)
    assert [layer for layer in range(48) if not config.is_recurrent(layer)] == list(range(3, 48, 4))
    assert all(config.is_sparse(layer) for layer in range(48))
    assert (config.linear_key_dim, config.linear_value_dim, config.linear_conv_dim) == (2048, 4096, 8192)
    assert (config.rotary_dim, config.rope_theta, config.eos_token_ids) == (64, 1e7, (151645,))
    assert config.rope_scaling is None


def test_both_spellings_of_one_architecture_read_alike():
    nested = without("rope_theta", "partial_rotary_factor", "rope_scaling", "full_attention_interval") | {
        "layer_types": ["linear_attention"] * 3 + ["full_attention"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    }
    assert ModelConfig.from_dict(nested) == ModelConfig.from_dict(TINY)


def test_a_listed_layer_order_rules_over_the_interval():
    types = ["full_attention", "linear_attention", "linear_attention", "full_attention"]
    config = ModelConfig.from_dict(TINY | {"layer_types": types})
    assert [config.is_recurrent(layer) for layer in range(4)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("overrides", "sparse"),
    [
        ({"decoder_sparse_step": 2}, [False, True, False, True]),
        ({"mlp_only_layers": [0, 3]}, [False, True, True, False]),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [1]}, [False, False, False, True]),
        ({"num_experts": 0}, [False, False, False, False]),
    ],
)
def test_layers_are_sparse_by_the_rule_of_transformers(overrides, sparse):
    config = ModelConfig.from_dict(TINY | overrides)
    assert [config.is_sparse(layer) for layer in range(4)] == sparse


def test_switches_default_as_in_transformers():
    names = (
        "attention_bias",
        "norm_topk_prob",
        "tie_word_embeddings",
        "decoder_sparse_step",
        "mlp_only_layers",
    )
    optional = ("full_attention_interval", "partial_rotary_factor", "rope_scaling", "eos_token_id")
    config = ModelConfig.from_dict(without(*names, *optional))
    assert [getattr(config, name) for name in names] == [False, True, False, 1, ()]
    assert (config.full_attention_interval, config.partial_rotary_factor, config.eos_token_ids) == (
        4,
        0.25,
        (),
    )


YARN = {"factor": 4.0, "original_max_position_embeddings": 128}


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_scaling": {"rope_type": "yarn", **YARN}},
        {"rope_scaling": {"type": "yarn", **YARN}},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, **YARN}},
        {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "yarn", **YARN}},
    ],
)
def test_yarn_is_read_wherever_it_is_written(spelling):
    config = ModelConfig.from_dict(TINY | spelling)
    assert config.rope_scaling == RopeScaling("yarn", 4.0, 128)
    assert (config.rope_theta, config.partial_rotary_factor) == (10000.0, 0.25)


def test_yarn_stretches_the_full_context_where_the_trained_length_is_not_named():
    config = ModelConfig.from_dict(TINY | {"rope_scaling": {"type": "yarn", "factor": 2}})
    assert config.rope_scaling == RopeScaling("yarn", 2.0, TINY["max_position_embeddings"])


def test_every_option_of_yarn_is_kept():
    options = {
        "beta_fast": 16,
        "beta_slow": 2,
        "attention_factor": 1.5,
        "mscale": 0.5,
        "mscale_all_dim": 0.25,
    }
    values = {"type": "yarn", **YARN, **options, "truncate": False}
    scaling = ModelConfig.from_dict(TINY | {"rope_scaling": values}).rope_scaling
    assert scaling == RopeScaling("yarn", 4.0, 128, **options, truncate=False)


@pytest.mark.parametrize("name", [*SIZES, "num_experts", "num_experts_per_tok", "rms_norm_eps", "rope_theta"])
def test_a_missing_field_is_named(name):
    with pytest.raises(CheckpointError, match=rf"config\.json has no {name}\b"):
        ModelConfig.from_dict(without(name))


@pytest.mark.parametrize("value", [0, -1, 2.5, 64.0, True, "64", [], {}, 10**12, float("nan"), float("inf")])
@pytest.mark.parametrize("name", SIZES)
def test_an_absurd_size_is_refused_by_name(name, value):
    with pytest.raises(CheckpointError, match=rf"config\.json has {name} = "):
        ModelConfig.from_dict(TINY | {name: value})


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"linear_num_value_heads": 3}, "linear_num_value_heads = 3"),
        ({"num_attention_heads": 3}, "num_attention_heads = 3"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok = 5"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok = 0"),
        ({"num_experts": 10**12}, "num_experts = "),
        ({"mlp_only_layers": [4]}, "mlp_only_layers"),
        ({"mlp_only_layers": [True]}, "mlp_only_layers"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step"),
        ({"full_attention_interval": 0}, "full_attention_interval"),
        ({"layer_types": ["full_attention"] * 3}, "layer_types"),
        ({"layer_types": ["sliding_attention"] * 4}, "layer_types"),
        ({"norm_topk_prob": 1}, "norm_topk_prob"),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps"),
        ({"rope_theta": float("nan")}, "rope_theta"),
        ({"rope_theta": -1}, "rope_theta"),
        ({"partial_rotary_factor": 0}, "rotates 0 of 32"),
        ({"partial_rotary_factor": 0.1}, "rotates 3 of 32"),
        ({"partial_rotary_factor": 1.5}, "partial_rotary_factor"),
        ({"rope_scaling": []}, "rope_scaling"),
        ({"rope_scaling": {"type": "yarn"}}, "has no factor"),
        ({"rope_scaling": {"type": "yarn", "factor": 0.5}}, "factor"),
        ({"rope_scaling": {"type": "yarn", "factor": 2, "beta_fast": 1, "beta_slow": 2}}, "beta_fast"),
        ({"eos_token_id": [1, -1]}, "eos_token_id"),
        ({"model_type": 3}, "model_type"),
    ],
)
def test_values_that_contradict_or_cannot_be_are_refused_by_name(overrides, named):
    with pytest.raises(CheckpointError) as caught:
        ModelConfig.from_dict(TINY | overrides)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"model_type": "llama"}, "'llama'"),
        ({"model_type": "qwen3_moe"}, "'qwen3_moe'"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2}}, "'longrope'"),
    ],
)
def test_another_architecture_is_refused_by_name(overrides, named):
    with pytest.raises(UnsupportedModelError) as caught:
        ModelConfig.from_dict(TINY | overrides)
    assert named in str(caught.value)


def test_the_refusal_of_a_huge_hostile_value_stays_one_short_printable_line():
    with pytest.raises(UnsupportedModelError) as caught:
        ModelConfig.from_dict(TINY | {"model_type": "\x1b[2J\n\ud800" * 10000})
    text = str(caught.value)
    assert len(text) < 300
    assert text.isprintable()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from([*TINY, "rope_parameters", "layer_types", "quantization"]), json_values)
)
def test_no_value_at_all_escapes_as_another_exception(overrides):
    for read in (ModelConfig.from_dict, Quantization.from_dict, GenerationDefaults.from_dict):
        try:
            read(TINY | overrides)
        except QnextError as error:
            assert str(error).endswith(".")  # noqa: PT017


MIXED = {
    "group_size": 64,
    "bits": 4,
    "mode": "affine",
    "model.layers.0.mlp.gate": {"group_size": 32, "bits": 8},
    "model.layers.0.mlp.shared_expert_gate": False,
    "lm_head": True,
}


class TestQuantization:
    def test_overrides_rule_over_the_default(self):
        quantization = Quantization.from_dict({"quantization": MIXED})
        assert quantization is not None
        assert quantization.for_module("model.embed_tokens") == Precision(4, 64)
        assert quantization.for_module("lm_head") == Precision(4, 64)
        assert quantization.for_module("model.layers.0.mlp.gate") == Precision(8, 32)
        assert quantization.for_module("model.layers.0.mlp.shared_expert_gate") is None

    def test_the_copy_that_mlx_lm_writes_for_the_hub_is_ignored(self):
        config = {"quantization": MIXED, "quantization_config": MIXED}
        assert Quantization.from_dict(config) == Quantization.from_dict({"quantization": MIXED})

    def test_unquantised_weights_have_none(self):
        assert Quantization.from_dict({}) is None

    @pytest.mark.parametrize("method", ["fp8", "gptq", "awq", "compressed-tensors"])
    def test_other_programs_formats_are_refused_by_name(self, method):
        with pytest.raises(UnsupportedModelError, match=rf"'{method}'.*affine"):
            Quantization.from_dict({"quantization_config": {"quant_method": method}})

    @pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
    def test_other_modes_are_refused_by_name(self, mode):
        with pytest.raises(UnsupportedModelError, match=mode):
            Quantization.from_dict({"quantization": {"group_size": 32, "bits": 4, "mode": mode}})
        override = {"lm_head": {"group_size": 32, "bits": 4, "mode": mode}}
        with pytest.raises(UnsupportedModelError, match=mode):
            Quantization.from_dict({"quantization": MIXED | override})

    @pytest.mark.parametrize(
        "settings",
        [{"bits": 7}, {"bits": 16}, {"bits": None}, {"group_size": 16}, {"group_size": 0}, {"lm_head": 3}],
    )
    def test_absurd_settings_are_refused(self, settings):
        with pytest.raises(CheckpointError, match=next(iter(settings))):
            Quantization.from_dict({"quantization": MIXED | settings})

    @pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
    def test_shapes_that_fit_the_precision_pass_and_others_are_refused(self, bits):
        precision = Precision(bits, 64)
        precision.check_packing("experts", (4, 10, 128 * bits // 32), (4, 10, 2))
        for weight, scales in [
            ((4, 10, 128 * bits // 32), (4, 10, 3)),
            ((4, 10, 128 * bits // 32 + 1), (4, 10, 2)),
            ((4, 9, 128 * bits // 32), (4, 10, 2)),
            ((128 * bits // 32,), (2,)),
            ((), ()),
        ]:
            with pytest.raises(CheckpointError, match="experts is packed"):
                precision.check_packing("experts", weight, scales)


class TestGenerationDefaults:
    def test_the_publishers_values_are_read(self, tmp_path):
        values = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [7, 8]}
        (tmp_path / "generation_config.json").write_text(json.dumps(values))
        expected = GenerationDefaults(temperature=0.6, top_k=20, top_p=0.95, eos_token_ids=(7, 8))
        assert GenerationDefaults.from_folder(tmp_path) == expected

    def test_without_the_file_decoding_is_greedy_as_in_transformers(self, tmp_path):
        assert GenerationDefaults.from_folder(tmp_path) == GenerationDefaults(temperature=0.0, top_k=50)

    @pytest.mark.parametrize(
        ("values", "temperature"),
        [
            ({}, 0.0),
            ({"do_sample": False, "temperature": 0.7}, 0.0),
            ({"do_sample": True}, 1.0),
            ({"temperature": 0.7}, 0.7),
        ],
    )
    def test_do_sample_decides_between_greedy_and_sampled(self, values, temperature):
        assert GenerationDefaults.from_dict(values).temperature == temperature

    def test_one_end_token_is_as_good_as_a_list(self):
        assert GenerationDefaults.from_dict({"eos_token_id": 7}).eos_token_ids == (7,)

    @pytest.mark.parametrize(
        "values",
        [
            {"temperature": -1},
            {"temperature": "hot"},
            {"top_k": -1},
            {"top_k": 2.5},
            {"top_p": 0},
            {"top_p": 1.5},
            {"min_p": -0.1},
            {"repetition_penalty": 0},
            {"presence_penalty": float("nan")},
            {"do_sample": "yes"},
            {"eos_token_id": "stop"},
        ],
    )
    def test_absurd_values_are_refused_by_name(self, values):
        with pytest.raises(CheckpointError, match=next(iter(values))):
            GenerationDefaults.from_dict(values)

    def test_a_damaged_file_is_refused_and_never_taken_as_absent(self, tmp_path):
        (tmp_path / "generation_config.json").write_text("{")
        with pytest.raises(CheckpointError, match=r"generation_config\.json is not valid JSON"):
            GenerationDefaults.from_folder(tmp_path)
