"""Options that several commands share, and the request they make."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypedDict

import typer

from cli.shell_completion import complete_draft, complete_kv_bits, complete_model
from cli.views.thought import Thinking
from mlx_qnext.errors import UsageError
from mlx_qnext.generate.request import DEEPEST_DRAFT, GenerationConfig, WhenFull

MODEL_VARIABLE = "QNEXT_MODEL"


Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        envvar=MODEL_VARIABLE,
        autocompletion=complete_model,
        help="A folder, a hub repository org/name[@revision], or an alias such as thinking-4bit; "
        "without it, the small embedded model.",
    ),
]
System = Annotated[str | None, typer.Option("--system", help="The system message.")]
ShowThinking = Annotated[
    Thinking,
    typer.Option("--thinking", help="Show the thought, collapse it to one line when it ends, or hide it."),
]
NoThink = Annotated[bool, typer.Option("--no-think/--think", help="Answer without thinking first.")]
ThinkBudget = Annotated[
    int | None,
    typer.Option("--think-budget", help="Close a thought by force after so many tokens; 0 is at once."),
]
Temperature = Annotated[float | None, typer.Option("--temp", help="Temperature; 0 is greedy.")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Keep the likeliest tokens up to this mass.")]
TopK = Annotated[int | None, typer.Option("--top-k", help="Keep this many tokens; 0 is all.")]
MinP = Annotated[
    float | None, typer.Option("--min-p", help="Keep tokens at least this likely beside the first.")
]
RepetitionPenalty = Annotated[
    float | None, typer.Option("--repetition-penalty", help="Above 1, discourage every token seen so far.")
]
PresencePenalty = Annotated[
    float | None, typer.Option("--presence-penalty", help="Above 0, discourage tokens that the answer holds.")
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", help="Fix the random draws; they repeat where --draft is a number too."),
]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", help="The most tokens, the thought included.")]
Stop = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="<str>", help="End the answer before this text; repeatable."),
]
Draft = Annotated[
    str,
    typer.Option(
        "--draft",
        autocompletion=complete_draft,
        metavar="<auto|0-4>",
        help="Tokens that the MTP head drafts a step; auto takes what is fastest, 0 drafts nothing.",
    ),
]
Memory = Annotated[
    str,
    typer.Option(
        "--memory",
        metavar="<auto|size>",
        help="What the model may take in all, as 8G or 512M: weights, cache and workspace; experts that find no room are read "
        "when they are needed.",
    ),
]
Context = Annotated[
    str,
    typer.Option(
        "--context",
        metavar="<auto|tokens>",
        help="For how long a context memory is set aside, as 8192 or 32k; auto takes up to 32k, as there is memory.",
    ),
]
KvBits = Annotated[
    int,
    typer.Option(
        "--kv-bits",
        autocompletion=complete_kv_bits,
        metavar="<16|8|4>",
        help="Bits of the numbers that the cache keeps of each token; 8 takes half the memory and 4 a quarter, for a little "
        "exactness.",
    ),
]
WhenContextIsFull = Annotated[
    WhenFull,
    typer.Option(
        "--when-full",
        help="What becomes of a prompt that --context has no room for: stop refuses it, drop leaves out the oldest turns and "
        "says so.",
    ),
]

_TOKENS = re.compile(r"(\d{1,12})(k?)", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Room:
    """What the model may take, as the options of one command line say.

    Attributes:
        memory_bytes: in all; `None` is what the machine can spare. context_tokens: `None` is as many as that allows.
        kv_bits: of quantised keys and values; `None` leaves them as they are computed.
    """

    memory_bytes: int | None
    context_tokens: int | None
    kv_bits: int | None


class Sampling(TypedDict):
    """The sampling options of one command line."""

    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    seed: int | None


def room(memory: str, context: str, kv_bits: int) -> Room:
    """The room that these options give the model.

    Raises:
        UsageError: a value that cannot be meant.
    """
    from mlx_qnext.experts.memory import parse_size

    if kv_bits not in (16, 8, 4):
        raise UsageError(f"--kv-bits is {kv_bits}, expected 16, 8 or 4.")
    return Room(parse_size(memory), _tokens(context), None if kv_bits == 16 else kv_bits)


def request(
    sampling: Sampling,
    *,
    max_tokens: int | None,
    stop: Sequence[str] | None,
    no_think: bool,
    think_budget: int | None = None,
    draft: str,
    when_full: WhenFull,
) -> GenerationConfig:
    """The request that these options make.

    Raises:
        UsageError: a value that cannot be meant.
    """
    return GenerationConfig(
        **sampling,
        max_tokens=max_tokens,
        stop=tuple(stop or ()),
        draft=_depth(draft),
        thinking=False if no_think else None,
        thinking_budget=think_budget,
        when_full=when_full,
    )


def _depth(draft: str) -> int | None:
    """The depth that `--draft` names; `None` for auto."""
    if draft == "auto":
        return None
    if draft not in map(str, range(DEEPEST_DRAFT + 1)):
        raise UsageError(f"--draft is {draft!r}, expected auto or a number from 0 to {DEEPEST_DRAFT}.")
    return int(draft)


def _tokens(context: str) -> int | None:
    """The tokens that `--context` names, k being 1,024 of them; `None` for auto."""
    if context.strip().lower() == "auto":
        return None
    parts = _TOKENS.fullmatch(context.strip())
    if parts is None:
        raise UsageError(f"--context is {context!r}, expected auto, or tokens such as 8192 or 32k.")
    return int(parts[1]) * (1024 if parts[2] else 1)
