"""Writes chat.svg and steps.svg."""

from __future__ import annotations

from pathlib import Path

from docs.recording.picture import picture
from docs.recording.terminal import recorded

FOLDER = Path(__file__).parent.parent
CHAT = "chat --model demo --temp 0 --thinking show"
# Of each: the command line, and what is typed then.
RECORDINGS = {
    "chat": (CHAT, ["Multiply 64 by 36", "/think collapse", "Minus 304?"]),
    "steps": (f"{CHAT} --show-steps --draft 4", ["What is 47 + 85?"]),
}

if __name__ == "__main__":
    for name, recording in RECORDINGS.items():
        (FOLDER / f"{name}.svg").write_text(picture(recorded(*recording), name), encoding="utf-8")
