"""What a person types into the real program, in a real pseudo-terminal: keys, pastes, interrupts, history, job control."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest
from program import CTRL_C, CTRL_D, ENTER, PROMPT, SCRIPTED, SCRIPTED_CHAT, Window

ALT_ENTER, TAB, UP, LEFT, BACKSPACE, DELETE, CTRL_Z = (
    "\x1b\r",
    "\t",
    "\x1b[A",
    "\x1b[D",
    "\x7f",
    "\x1b[3~",
    "\x1a",
)
LEAVES = "Ctrl-C again, or Ctrl-D, leaves."


def pasted(text: str) -> str:
    return f"\x1b[200~{text}\x1b[201~"


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a scripted program answers with; nothing was typed before."""
    monkeypatch.setenv("QNEXT_HISTORY", str(tmp_path / "history"))
    path = tmp_path / "answer.md"
    path.write_text("It is 132.")
    return path


def scripted(answer: Path) -> Window:
    return Window(str(answer), *SCRIPTED_CHAT, command=SCRIPTED)


def questions(window: Window, folder: Path) -> list[str]:
    """What was asked so far."""
    file = folder / "chat.json"
    window.ask(f"/export {file} --overwrite")
    window.until("Written to")
    window.until_prompt()
    return [each["content"] for each in json.loads(file.read_text())["messages"] if each["role"] == "user"]


def test_questions_are_edited_pasted_and_of_several_lines(answer: Path, tmp_path: Path) -> None:
    lines = "first\n  second\n\nfourth"
    typed = {
        f"What is 47 + 58?{LEFT}{LEFT}{BACKSPACE}8{DELETE}5{ENTER}": "What is 47 + 85?",
        f"{pasted(lines)}{ENTER}": lines,
        f"one{ALT_ENTER}two{ENTER}": "one\ntwo",
        f'"""{ENTER}quoted{ENTER}twice{ENTER}"""{ENTER}': "quoted\ntwice",
        f"begun\\{ENTER}ended{ENTER}": "begun\nended",
    }
    with scripted(answer) as window:
        window.until_prompt()
        for count, keys in enumerate(typed, 1):
            window.press(keys)
            window.until(lambda count=count: window.text().count("It is 132.") == count)
            window.until_prompt()
        assert f"{PROMPT} What is 47 + 85?\nIt is 132." in window.text()
        assert f"{PROMPT} first\n…   second\n…\n… fourth\nIt is 132." in window.text()
        assert questions(window, tmp_path) == list(typed.values())
        window.type("/mo")
        window.press(TAB)
        window.until(lambda: window.cursor_row().startswith(f"{PROMPT} /model"))
        window.press(CTRL_C)
        window.until(LEAVES)
        window.until_prompt()
        window.press(CTRL_D)
        assert window.left() == 0


def test_an_interrupt_drops_what_is_typed_and_a_second_one_leaves(answer: Path) -> None:
    with scripted(answer) as window:
        window.until_prompt()
        window.type("half a ques")
        window.press(CTRL_C)
        window.until(LEAVES)
        window.until_prompt()
        window.ask("What is 47 + 85?")
        window.until("It is 132.")
        window.until_prompt()
        window.press(CTRL_C)
        window.until(lambda: window.text().count(LEAVES) == 2)
        window.until_prompt()
        window.press(CTRL_C)
        assert window.left() == 0


def test_what_is_typed_while_an_answer_comes_is_the_next_question(answer: Path) -> None:
    answer.unlink()
    os.mkfifo(answer)
    with scripted(answer) as window:
        window.until_prompt()
        window.ask("one")
        with answer.open("w") as pipe:
            pipe.write("It is ")
            pipe.flush()
            window.until("It is")
            window.press(f"two{ENTER}three")
            pipe.write("132.")
        window.until("It is 132.")
        with answer.open("w") as pipe:
            pipe.write("It is 5.")
        window.until("It is 5.")
        window.until(lambda: window.cursor_row() == f"{PROMPT} three")
        written = window.terminal.written
        assert written.index("two") > written.index("first after")
        assert f"{PROMPT} one\nIt is 132.\n" in window.text()
        assert f"\n\n{PROMPT} two\nIt is 5.\n" in window.text()


def recalled(window: Window) -> list[str]:
    """The lines that Up brings to an empty prompt."""
    window.until_prompt()
    window.press(UP)
    window.until(lambda: window.cursor_row() not in ("", PROMPT))
    return window.rows()[-2:]


@pytest.mark.slow
def test_what_was_typed_is_remembered_by_the_next_chat_but_for_what_is_not_saved(answer: Path) -> None:
    with Window("chat", "--model", "demo", "--no-think") as window:
        window.until_prompt()
        window.press(f"one{ALT_ENTER}two{ENTER}")
        window.until("first after")
        window.until_prompt()
        window.press(CTRL_D)
        assert window.left() == 0
    for _ in range(2):
        with scripted(answer) as window:
            assert recalled(window) == [f"{PROMPT} one", "… two"]
            window.press(f" and a secret{ENTER}")
            window.until("first after")
            # As long as the chat lasts it is remembered there.
            assert recalled(window) == [f"{PROMPT} one", "… two and a secret"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_a_chat_that_is_suspended_goes_on_in_the_foreground(answer: Path) -> None:
    answer.unlink()
    os.mkfifo(answer)
    with Window(command=["bash", "--norc", "--noprofile", "-i"], variables={"PS1": "$ "}) as window:
        window.until(lambda: window.cursor_row() == "$")
        window.press(shlex.join([*SCRIPTED, str(answer), *SCRIPTED_CHAT]) + ENTER)
        window.until_prompt()
        window.type("What is 47")
        window.press(CTRL_Z)
        window.until("Stopped")
        window.until(lambda: window.cursor_row() == "$")
        window.press(f"fg{ENTER}")
        window.until(lambda: window.cursor_row() == f"{PROMPT} What is 47")
        window.press(f" + 85?{ENTER}")
        with answer.open("w") as pipe:
            pipe.write("It is ")
            pipe.flush()
            window.until("It is")
            window.press(CTRL_Z)
            window.until(lambda: window.text().count("Stopped") == 2)
            window.until(lambda: window.cursor_row() == "$")
            window.press(f"fg{ENTER}")
            pipe.write("132.")
        window.until_prompt()
        assert "\nIt is 132.\n" in window.text()
        # The command itself, and each time that it was stopped and called back.
        assert "".join(window.rows()).count(SCRIPTED_CHAT[-1]) == 5
        window.press(CTRL_D)
        window.until(lambda: window.cursor_row() == "$")
