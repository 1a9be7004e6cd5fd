"""What tests of a chat's commands share: a short conversation, and what is shown as plain text."""

from __future__ import annotations

from pathlib import Path

from fakes.engine import finished
from rich.console import Console

from cli.conversation import Attachment, Conversation
from cli.views.thought import Thinking

NOTES = Attachment(Path("/notes.txt"), "one\ntwo\n", 12)


def one_turn() -> Conversation:
    """With a system message, and a thought in the answer."""
    conversation = Conversation("Be brief.", Thinking.collapse)
    conversation.answered(conversation.question("one?"), finished("1.", "hm\n\nwell"))
    return conversation


def text(renderable: object, width: int = 100) -> str:
    """What a console of this width prints."""
    console = Console(width=width, markup=False, highlight=False)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()
