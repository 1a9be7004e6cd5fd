"""Chats as the text the model learns from; the same text that `chat_template.jinja` renders.

Training needs to know which parts the model itself writes, which a template cannot say; hence a second writing of the
format. A test holds the two together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from demo.conversation import Conversation, Turn

END = "<|im_end|>"
NO_THOUGHT = "<think>\n\n</think>\n\n"

_TOOLS_BEFORE = "# Tools\n\nYou can call these functions, described as JSON within <tools></tools>:\n<tools>"
_TOOLS_AFTER = (
    "\n</tools>\n\nTo call one, give its name and arguments as JSON within <tool_call></tool_call>:\n"
    '<tool_call>\n{"name": <name>, "arguments": <arguments>}\n</tool_call>'
)

Piece = tuple[str, bool]


def call_text(call: dict[str, Any]) -> str:
    """Return a tool call as the model writes it."""
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


def _system(text: str, tools: Sequence[dict[str, Any]]) -> str:
    if tools:
        listing = "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in tools)
        text += ("\n\n" if text else "") + _TOOLS_BEFORE + listing + _TOOLS_AFTER
    return f"<|im_start|>system\n{text}{END}\n" if text else ""


def _given(turn: Turn) -> str:
    """Return a turn that the model reads but does not learn to write."""
    if turn.role == "tool":
        return f"<|im_start|>user\n<tool_response>\n{turn.text}\n</tool_response>{END}\n"
    body = call_text(turn.call) if turn.call else turn.text
    return f"<|im_start|>{turn.role}\n{body}{END}\n"


def pieces(chat: Conversation) -> list[Piece]:
    """Return the text of a chat in pieces, each with whether the model learns to write it.

    A thinking model writes its thought, the tags around it, the answer and the end mark. Where it does not think, the
    empty thought is part of what it is given. The newline after the last end mark is left out.
    """
    turns = list(chat.turns)
    system = turns.pop(0).text if turns[0].role == "system" else ""
    given, result = _system(system, chat.tools), []
    for turn in turns:
        if turn.thought is None:
            given += _given(turn)
            continue
        body = (call_text(turn.call) if turn.call else turn.text) + END
        if turn.thought:
            result += [
                (f"{given}<|im_start|>assistant\n", False),
                (f"<think>\n{turn.thought}\n</think>\n\n{body}", True),
            ]
        else:
            result += [(f"{given}<|im_start|>assistant\n{NO_THOUGHT}", False), (body, True)]
        given = "\n"
    return result


def prompt(chat: Conversation) -> str:
    """Return everything before the last answer."""
    return "".join(text for text, _ in pieces(chat)[:-1])
