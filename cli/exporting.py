"""A conversation as a file for people, or for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cli.attaching import named_file
from cli.conversation import ASKED_FROM, Message, text_of
from mlx_qnext.disk import replacing, writing
from mlx_qnext.errors import OutputError, UsageError

_THOUGHT = "reasoning_content"
_HEADINGS = {"system": "System message", "user": "Question", "assistant": "Answer"}


def export(path: str, model: str, messages: Sequence[Message], *, thinking: bool, overwrite: bool) -> Path:
    """Write the conversation to `path`, in the format that its name ends in; returns the file, which is whole.

    Raises:
        UsageError: no format is known by that name. OutputError: there is a file already, or the disk refuses.
    """
    file = named_file(path)
    render = _FORMATS.get(file.suffix.lower())
    if render is None:
        raise UsageError(
            f"{path} ends in neither .md nor .json: name the file so that it says what to write."
        )
    told = [_told(message, thinking=thinking) for message in messages]
    with writing(file, when_full="write it again"):
        if file.exists() and not overwrite:
            raise OutputError(
                f"{path} is there already: choose another name, or replace it with --overwrite."
            )
        with replacing(file) as fresh:
            fresh.write_text(render(model, told), encoding="utf-8", errors="replace")
    return file


def _told(message: Message, *, thinking: bool) -> Message:
    """What is written of a message: neither what the chat itself notes in it, nor an empty or unwanted thought."""
    left_out = {ASKED_FROM} if thinking and message.get(_THOUGHT) else {ASKED_FROM, _THOUGHT}
    return {name: value for name, value in message.items() if name not in left_out}


def _json(model: str, messages: Sequence[Message]) -> str:
    return json.dumps({"model": model, "messages": messages}, ensure_ascii=False, indent=2) + "\n"


def _markdown(model: str, messages: Sequence[Message]) -> str:
    parts = [f"# A conversation with {model}", *(part for each in messages for part in _parts(each))]
    return "\n\n".join(parts) + "\n"


def _parts(message: Message) -> Iterator[str]:
    role = str(message.get("role"))
    yield f"## {_HEADINGS.get(role, role)}"
    if thought := str(message.get(_THOUGHT) or "").strip():
        yield "\n".join(f"> {line}".rstrip() for line in thought.splitlines())
    for call in message.get("tool_calls") or ():
        yield f"```json\n{json.dumps(call, ensure_ascii=False)}\n```"
    if text := text_of(message).strip():
        yield text


_FORMATS: dict[str, Callable[[str, Sequence[Message]], str]] = {".md": _markdown, ".json": _json}
