"""What `generation_config.json` recommends for sampling, and when an answer ends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlx_qnext.json_fields import Fields, read_json_object


@dataclass(frozen=True)
class GenerationDefaults:
    """Sampling as the model's publisher recommends it; the class defaults are transformers' own.

    Attributes:
        temperature: 0 is greedy. top_k: 0 is off. top_p: in (0, 1]. min_p: in [0, 1].
        repetition_penalty: 1 is off. presence_penalty: 0 is off.
        eos_token_ids: tokens that end an answer; empty leaves it to config.json and the tokenizer.
    """

    temperature: float = 0.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    eos_token_ids: tuple[int, ...] = ()

    @classmethod
    def from_folder(cls, folder: Path) -> GenerationDefaults:
        """The defaults of the model in `folder`; those of the class where it has no such file.

        Raises:
            CheckpointError: the file is there and damaged, or holds an absurd value.
        """
        path = folder / "generation_config.json"
        return cls.from_dict(read_json_object(path)) if path.exists() else cls()

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> GenerationDefaults:
        """The checked form of a parsed `generation_config.json`.

        As in transformers, `do_sample` false is greedy, and so is a file that says nothing of sampling. One
        that names a temperature and leaves `do_sample` out means the temperature.
        """
        fields = Fields(values, "generation_config.json")
        temperature = fields.number("temperature", low=0.0, high=100.0, default=1.0)
        samples = fields.flag("do_sample", default=fields.has("temperature"))
        return cls(
            temperature=temperature if samples else 0.0,
            top_k=fields.integer("top_k", low=0, high=1 << 31, default=cls.top_k),
            top_p=fields.number("top_p", low=1e-9, high=1.0, default=cls.top_p),
            min_p=fields.number("min_p", low=0.0, high=1.0, default=cls.min_p),
            repetition_penalty=fields.number(
                "repetition_penalty", low=1e-3, high=10.0, default=cls.repetition_penalty
            ),
            presence_penalty=fields.number(
                "presence_penalty", low=-10.0, high=10.0, default=cls.presence_penalty
            ),
            eos_token_ids=fields.integers("eos_token_id", low=0, high=1 << 31),
        )
