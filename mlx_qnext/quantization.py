"""What `config.json` says of quantised weights, in the format that mlx-lm writes.

`{"quantization": {"group_size": 64, "bits": 4, "mode": "affine", "model.layers.0.mlp.gate": {"group_size":
64, "bits": 8}, "lm_head": false}}`: a default, and overrides by module path. Whether a module is quantised at
all shows in the files, by a `.scales` tensor beside its `.weight`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlx_qnext.errors import CheckpointError, UnsupportedModelError
from mlx_qnext.json_fields import REMEDY, Fields, shown

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)
ACCEPTED = "bf16, fp16 and fp32 weights and MLX affine quantisation are"
_SETTINGS = frozenset({"group_size", "bits", "mode"})


@dataclass(frozen=True)
class Precision:
    """Affine quantisation: w = scale · q + bias for `group_size` consecutive inputs, q of `bits` bits."""

    bits: int
    group_size: int

    def check_packing(self, module: str, weight: tuple[int, ...], scales: tuple[int, ...]) -> None:
        """Returns where the shapes of the packed uint32 `weight` [..., out, in · bits / 32] and of its
        `scales` [..., out, in / group_size] fit this precision.

        Raises:
            CheckpointError: they do not.
        """
        words = tuple(groups * self.group_size * self.bits // 32 for groups in scales[-1:])
        if len(scales) < 2 or weight != (*scales[:-1], *words):
            raise CheckpointError(
                f"{module} is packed as weight {list(weight)} with scales {list(scales)}, which is not the "
                f"{self.bits} bits in groups of {self.group_size} that config.json names: {REMEDY}."
            )


@dataclass(frozen=True)
class Quantization:
    """The precision of each quantised module: an override, else the default."""

    default: Precision
    overrides: Mapping[str, Precision | None]

    @classmethod
    def from_dict(cls, config: dict[str, object], source: str = "config.json") -> Quantization | None:
        """What a parsed `config.json` names; `None` for weights that are not quantised.

        mlx-lm repeats its own settings under `quantization_config`; alone, that key belongs to others.

        Raises:
            UnsupportedModelError: another mode than affine, or another program's quantisation.
            CheckpointError: an absurd value.
        """
        fields = Fields(config, source)
        if not fields.has("quantization"):
            _refuse_other_programs(fields)
            return None
        settings = fields.object("quantization")
        default = _precision(settings)
        overrides = {
            path: _override(settings, path, default) for path in settings.values if path not in _SETTINGS
        }
        return cls(default, overrides)

    def for_module(self, path: str) -> Precision | None:
        """The precision named for a module; `None` where the file says that it stays unquantised."""
        return self.overrides.get(path, self.default)


def _override(settings: Fields, path: str, default: Precision) -> Precision | None:
    value = settings.values[path]
    if isinstance(value, bool):
        return default if value else None
    return _precision(settings.object(path))


def _precision(settings: Fields) -> Precision:
    mode = settings.text("mode", default="affine")
    if mode != "affine":
        raise UnsupportedModelError(
            f"{settings.source} asks for the quantisation mode {shown(mode)}, and of quantised weights only "
            "affine ones are computed here: choose a model quantised with mlx-lm's affine mode."
        )
    bits = settings.integer("bits", low=1, high=32)
    if bits not in BITS:
        raise settings.error("bits", bits, f"one of {BITS}")
    group_size = settings.integer("group_size", low=1, high=1 << 20)
    if group_size not in GROUP_SIZES:
        raise settings.error("group_size", group_size, f"one of {GROUP_SIZES}")
    return Precision(bits, group_size)


def _refuse_other_programs(fields: Fields) -> None:
    if not fields.has("quantization_config"):
        return
    method = fields.object("quantization_config").text("quant_method", default="unnamed")
    raise UnsupportedModelError(
        f"{fields.source} names the quantisation {shown(method)}, which is not computed here; {ACCEPTED}: "
        "choose such a model."
    )
