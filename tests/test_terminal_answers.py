"""Answers in a real pseudo-terminal, as a person sees them: interrupted, resized, longer than the screen, shaded, hidden."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import pytest
from program import CTRL_C, CTRL_D, PROMPT, SCRIPTED, SCRIPTED_CHAT, Tmux, Window
from screens import Terminal
from test_answer_view import LONG, at_once, squeezed

from mlx_qnext.errors import INTERRUPTED_EXIT_CODE
from mlx_qnext.sessions.library import SessionLibrary

CHAT = ("chat", "--model", "demo", "--temp", "0")
SUM = "What is 47 + 85?"
COUNT = "Count up from 1 to 400 in steps of 1"
# The embedded model thinks a hundred tokens about this.
SORT = "Sort these numbers from smallest to largest: 91, 17, 48, 63, 5, 77, 32"
# What was said already is far likelier than the end, or than anything else.
ENDLESS = ("--no-think", "--presence-penalty", "-10")


def shown(window: Window, question: str) -> list[str]:
    """The rows below a question and above its answer's figures."""
    rows = window.rows()
    begins = len(rows) - rows[::-1].index(f"{PROMPT} {question}")
    ends = next(at for at in range(begins, len(rows)) if " tokens · " in rows[at])
    return rows[begins:ends]


def figures(window: Window) -> list[str]:
    """The lines below all answers, and whatever else looks like one."""
    return [row for row in window.rows() if " tok/s" in row]


def figure(pattern: str, line: str) -> int:
    found = re.search(pattern, line)
    assert found, line
    return int(found[1])


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SessionLibrary:
    """Of nobody else."""
    monkeypatch.setenv("QNEXT_SESSIONS", str(tmp_path))
    return SessionLibrary()


class TestInterrupts:
    def test_an_answer_and_a_thought_stop_and_the_chat_goes_on_from_what_was_said(self) -> None:
        with Window(*CHAT, *ENDLESS, "--no-save", "--thinking", "show", columns=160) as window:
            window.until_prompt()
            window.ask(COUNT)
            window.until("11, 11, 11")
            window.press(CTRL_C)
            window.until_prompt()
            window.ask("/set presence-penalty default")
            window.until_prompt()
            window.ask(SUM)
            window.until_prompt()
            window.ask("/set think on")
            window.until_prompt()
            window.ask(SORT)
            window.until("left")
            window.press(CTRL_C)
            window.until_prompt()
            assert shown(window, COUNT)[0].startswith("1, 1, 11, 11")
            assert shown(window, SUM) == ["47 + 85 = 132"]
            heading, *thought, length, gap = shown(window, SORT)
            assert (heading, gap) == ("thinking", "")
            assert thought[0].startswith("smallest 5, left")
            assert length.startswith("thought for ")
            stopped, answered, stopped_again = figures(window)
            assert stopped.endswith(" · stopped")
            assert stopped_again.endswith(" · stopped")
            # All that was said is part of the next prompt, and what the model had read is not read again.
            assert figure(r"prompt (\d+)", answered) > figure(r"context (\d+)", stopped)
            assert figure(r"\((\d+) cached", answered) > figure(r"prompt (\d+)", stopped) - 8
            assert figure(r"\((\d+) cached", stopped_again) > figure(r"prompt (\d+)", answered) - 8
            window.press(CTRL_D)
            assert window.left() == 0

    @pytest.mark.slow
    def test_after_a_thought_was_stopped_the_next_question_is_thought_about_and_answered(self) -> None:
        with Window(*CHAT, "--no-save", "--thinking", "show", columns=160) as window:
            window.until_prompt()
            window.ask(SORT)
            window.until("left")
            window.press(CTRL_C)
            window.until_prompt()
            window.ask(SUM)
            window.until_prompt()
            heading, *_, length, gap, answered = shown(window, SUM)
            assert (heading, gap, answered) == ("thinking", "", "47 + 85 = 132")
            assert length.startswith("thought for ")
            stopped, finished = figures(window)
            assert stopped.endswith(" · stopped")
            assert not finished.endswith(" · stopped")
            # The question is part of the next prompt, and is not read again.
            assert figure(r"prompt (\d+)", finished) > figure(r"prompt (\d+)", stopped)
            assert figure(r"\((\d+) cached", finished) > figure(r"prompt (\d+)", stopped) - 8
            window.press(CTRL_D)
            assert window.left() == 0

    def test_a_second_interrupt_leaves_with_130_and_saves_what_was_answered(
        self, library: SessionLibrary
    ) -> None:
        program = [sys.executable, "tests/streamed_program.py", "the second answer interrupted, and waiting"]
        with Window(*CHAT, "--no-think", command=program) as window:
            window.until_prompt()
            window.ask(SUM)
            window.until_prompt()
            window.ask(COUNT)
            window.until("waiting")
            window.press(CTRL_C)
            assert window.left() == INTERRUPTED_EXIT_CODE
        (info,) = library.list()
        assert (info.turns, info.trouble) == (1, None)


@pytest.fixture
def answer(tmp_path: Path) -> Path:
    """The file that a scripted program answers with."""
    return tmp_path / "answer.md"


def test_an_answer_longer_than_the_screen_is_whole_on_it_and_above(answer: Path) -> None:
    answer.write_text(LONG)
    expected = Terminal(80)
    expected.write(at_once(LONG, 80))
    with Window(str(answer), *SCRIPTED_CHAT, command=SCRIPTED) as window:
        window.until_prompt()
        window.ask("Write.")
        window.until_prompt()
        assert shown(window, "Write.") == expected.rows()
        assert len(expected.rows()) > 150


def is_whole(rows: Sequence[str], text: str) -> bool:
    """Whether all of the text is there in order. A paint that was on its way while tmux was resized may leave some lines."""
    seen = squeezed("".join(rows))
    rest = iter(seen)
    return all(char in rest for char in squeezed(text)) and len(seen) < len(squeezed(text)) + 200


def fill_the_screen(window: Window) -> None:
    """Until then tmux moves what becomes longer out of the screen, where no program can erase it."""
    window.until_prompt()
    window.ask("/help")
    window.until_prompt()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
class TestResize:
    def test_of_the_embedded_models_words_none_is_lost_or_doubled(self, tmp_path: Path) -> None:
        said = tmp_path / "said.json"
        with Tmux(*CHAT, "--no-save", "--thinking", "show") as window:
            fill_the_screen(window)
            window.ask(SORT)
            window.until("left 91")
            window.resize(40)
            window.until("smallest 17")
            window.resize(120)
            window.until_prompt()
            rows = shown(window, SORT)
            window.ask(f"/export {said} --thinking")
            window.until("Written to")
        reply = json.loads(said.read_text())["messages"][1]
        length = next(row for row in rows if row.startswith("thought for"))
        expected = ["thinking", reply["reasoning_content"], length, reply["content"]]
        assert is_whole(rows, "".join(expected))

    def test_of_blocks_of_all_kinds_nothing_is_lost_or_doubled(self, answer: Path) -> None:
        text = LONG.replace("| n | square |\n|--:|---|", "")  # whose lines are as wide as the terminal
        pieces = [text[at : at + 500] for at in range(0, len(text), 500)]
        os.mkfifo(answer)
        with Tmux(str(answer), *SCRIPTED_CHAT, command=SCRIPTED) as window:
            fill_the_screen(window)
            window.ask("Write.")
            with answer.open("w") as pipe:
                for piece, columns in zip(pieces, cycle((80, 40, 120, 60))):
                    window.resize(columns)
                    pipe.write(piece)
                    pipe.flush()
                    window.until(re.findall(r"\w+", piece)[-1])
            window.until_prompt()
            assert is_whole(shown(window, "Write."), at_once(text, 80))


class TestSteps:
    def test_tokens_of_one_step_are_shaded_together(self) -> None:
        with Window(*CHAT, "--no-think", "--no-save", "--show-steps") as window:
            window.until_prompt()
            window.ask(SUM)
            window.until_prompt()
            (said,) = shown(window, SUM)
            assert said == "47 + 85 = 132"
            colours, groups = zip(*window.terminal.runs(lambda char: char.bg))
            assert len(groups) > 1
            assert colours == tuple(islice(cycle(("cyan", "green")), len(groups)))
            assert re.search(".*".join(map(re.escape, groups)), said)

    @pytest.mark.slow
    def test_without_colours_they_are_underlined_and_reversed_in_turns(self, answer: Path) -> None:
        answer.write_text("one two three four five six seven")
        no_color = {"NO_COLOR": "1"}
        with Window(
            str(answer), *SCRIPTED_CHAT, "--show-steps", command=SCRIPTED, variables=no_color
        ) as window:
            window.until_prompt()
            window.ask("Count.")
            window.until_prompt()
            assert window.terminal.runs(lambda char: (char.underscore, char.reverse)) == [
                ((True, False), " th"),
                ((False, True), "ree four fi"),
                ((True, False), "sev"),
                ((False, True), "en"),
            ]
            assert window.terminal.runs(lambda char: (char.fg, char.bg)) == []


def test_a_thought_is_hidden_or_collapses_or_is_shown(answer: Path) -> None:
    os.mkfifo(answer)
    while_it_lasts, afterwards = {}, {}
    with Window(str(answer), *SCRIPTED_CHAT, "--thinking", "hide", command=SCRIPTED) as window:
        window.until_prompt()
        for mode in ("hide", "collapse", "show"):
            if mode != "hide":
                window.ask(f"/think {mode}")
                window.until_prompt()
            window.ask(f"Add and {mode}.")
            with answer.open("w") as pipe:
                pipe.write("\f7 + 5 is 12\ncarry 1")
                pipe.flush()
                window.until(lambda: "6 tokens" in window.cursor_row() or "carry 1" in window.cursor_row())
                rows = window.rows()
                while_it_lasts[mode] = rows[rows.index(f"{PROMPT} Add and {mode}.") + 1 :]
                pipe.write("\fIt is **132**.")
            window.until_prompt()
            afterwards[mode] = shown(window, f"Add and {mode}.")
    heading, *tail = while_it_lasts["hide"]
    assert "thinking" in heading
    assert tail == []
    heading, *tail = while_it_lasts["collapse"]
    assert "thinking" in heading
    assert tail == ["│ 7 + 5 is 12", "│ carry 1"]
    assert while_it_lasts["show"][:3] == ["thinking", "7 + 5 is 12", "carry 1"]
    for mode, left in {"hide": [], "collapse": [], "show": ["thinking", "7 + 5 is 12", "carry 1"]}.items():
        *above, length, gap, answered = afterwards[mode]
        assert (above, gap, answered) == (left, "", "It is 132.")
        assert re.fullmatch(r"thought for .* s · 6 tokens", length)


class TestDumbTerminal:
    def test_nothing_but_text_is_written_to_it(self, answer: Path) -> None:
        answer.write_text("\f7 + 5 is 12\fIt **is** 132.")
        with Window(str(answer), *SCRIPTED_CHAT, command=SCRIPTED, variables={"TERM": "dumb"}) as window:
            window.until(PROMPT)
            window.ask("What is 47 + 85?")
            window.until("first after")
            window.press(CTRL_D)
            assert window.left() == 0
        assert "\n7 + 5 is 12\r\n" in window.terminal.written
        assert "\nIt **is** 132.\r\n" in window.terminal.written
        assert "\x1b" not in window.terminal.written
