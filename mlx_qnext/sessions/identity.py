"""What a cache belongs to: the same numbers mean something else, or nothing, to another model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Identity:
    """The model and the form of its cache.

    Attributes:
        model: as people name it; says nothing about what fits.
        weights: the key of its weights.
        template: the fingerprint of its tokenizer and chat template.
        kv_bits: of the keys and values; `None` as they are computed.
        dtype: of activations.
    """

    model: str
    weights: str
    template: str
    kv_bits: int | None
    dtype: str

    def difference(self, here: Identity) -> str | None:
        """Why what was saved with this cannot go on `here`, as a clause; `None` where it can."""
        if self.weights != here.weights:
            other = "other weights of that name" if self.model == here.model else here.model
            return f"was saved with {self.model}, and this is {other}"
        if self.template != here.template:
            return f"was saved when {self.model} had another tokenizer or chat template"
        if self.kv_bits != here.kv_bits:
            return f"was saved with keys and values {_form(self.kv_bits)}, and here they are {_form(here.kv_bits)}"
        if self.dtype != here.dtype:
            return f"was saved where the model computes in {self.dtype}, and here it does in {here.dtype}"
        return None


def _form(kv_bits: int | None) -> str:
    return "as computed" if kv_bits is None else f"at {kv_bits} bits"
