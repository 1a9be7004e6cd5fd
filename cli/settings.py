"""What answers are asked with: the options that every command which answers has, and that are kept with a conversation."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from cli import options
from cli.options import Room
from mlx_qnext.generate.request import GenerationConfig, WhenFull
from mlx_qnext.hub import ALIASES


@dataclass(frozen=True)
class Settings:
    """Named as the command's parameters; `None` is the model's own, and of `model` the embedded one."""

    model: str | None
    no_think: bool
    think_budget: int | None
    temp: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    seed: int | None
    max_tokens: int | None
    stop: tuple[str, ...]
    draft: str
    context: str
    kv_bits: int
    when_full: WhenFull

    def request(self) -> GenerationConfig:
        """What every question is asked with.

        Raises:
            UsageError: a value that cannot be meant.
        """
        sampling: options.Sampling = {
            "temperature": self.temp,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "seed": self.seed,
        }
        return options.request(
            sampling,
            max_tokens=self.max_tokens,
            stop=self.stop,
            no_think=self.no_think,
            think_budget=self.think_budget,
            draft=self.draft,
            when_full=self.when_full,
        )

    def room(self, memory: str) -> Room:
        """What the model may take.

        Raises:
            UsageError: a value that cannot be meant.
        """
        return options.room(memory, self.context, self.kv_bits)

    def facts(self) -> dict[str, Any]:
        """JSON, from which `after` reads them. A model in a folder is found from everywhere."""
        model = self.model
        # An alias is one, whatever folder lies here.
        if model is not None and model not in ALIASES and Path(model).is_dir():
            model = str(Path(model).absolute())
        return asdict(self) | {"model": model, "stop": list(self.stop)}

    def after(self, saved: Mapping[str, Any], given: Collection[str]) -> Settings:
        """As they were saved, but for the `given` ones; what was saved and cannot be meant is left out."""
        names = {field.name for field in fields(self)} - set(given)
        sound = {name: saved[name] for name in names & saved.keys() if _is_sound(name, saved[name])}
        if "stop" in sound:
            sound["stop"] = tuple(sound["stop"])
        return replace(self, **sound)


def _is_sound(name: str, value: object) -> bool:
    """Whether a saved value has the type of its setting; its range is checked with everybody's."""
    if name == "stop":
        return isinstance(value, list) and all(isinstance(text, str) for text in value)
    if name == "when_full":
        return value in get_args(WhenFull)
    return isinstance(value, get_type_hints(Settings)[name])
