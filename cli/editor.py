"""A text of one or more lines, edited in a terminal: keys, history, completion. Loaded only where somebody types."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.data_structures import Size
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.history import History
from prompt_toolkit.input import Input
from prompt_toolkit.input.vt100 import Vt100Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout.processors import TabsProcessor
from prompt_toolkit.output import Output
from prompt_toolkit.output.color_depth import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style

from cli.input_history import InputHistory
from cli.multiline import begun_line
from cli.terminal import visible
from cli.typed_completion import candidates

_MENU_ROWS = 8
_TAB = 8
_MARK_PASTES = "\x1b[?2004h"
_DO_NOT_MARK_PASTES = "\x1b[?2004l"
_STYLE = Style.from_dict(
    {
        "prompt-continuation": "ansibrightblack",
        "completion-menu": "noinherit",
        "completion-menu.completion": "noinherit",
        "completion-menu.completion.current": "noinherit reverse",
        "completion-menu.meta.completion": "noinherit ansibrightblack",
        "completion-menu.meta.completion.current": "noinherit ansibrightblack",
        "search-toolbar": "ansibrightblack",
        "search-toolbar.text": "noinherit",
    }
)


class Editor:
    """Takes texts from a terminal, one after another.

    Where one was edited, exactly that text is left behind its prompt, however long it is: the screen's last rows are all that
    the editing itself needs.
    """

    def __init__(
        self,
        screen: TextIO,
        history: InputHistory,
        prompt: str,
        continuation: str,
        *,
        keys: Input | None = None,
        output: Output | None = None,
    ) -> None:
        self._screen, self._prompt, self._continuation = screen, prompt, continuation
        self._history = history
        self._session: PromptSession[str] = PromptSession(
            prompt,
            multiline=True,
            prompt_continuation=self._before_line,
            completer=_Completer(),
            complete_while_typing=False,
            reserve_space_for_menu=_MENU_ROWS,
            history=_History(history),
            input_processors=[TabsProcessor(tabstop=_TAB, char1=" ", char2=" ")],
            key_bindings=_bindings(),
            enable_suspend=True,
            enable_open_in_editor=True,
            tempfile_suffix=".md",
            erase_when_done=True,
            style=_STYLE,
            color_depth=ColorDepth.from_env(),
            input=keys or _Keys(sys.stdin),
            output=output or on_screen(screen, partial(_size, screen)),
        )

    @property
    def has_text(self) -> bool:
        """Whether there was any when it was left last."""
        return bool(self._session.default_buffer.text)

    @property
    def trouble(self) -> str | None:
        """Why what is typed is not remembered."""
        return self._history.trouble

    def read(self) -> str:
        """What is typed next, complete, with its quotes.

        Raises:
            EOFError: Ctrl-D was typed into nothing, or the terminal is gone. KeyboardInterrupt: the text is dropped.
        """
        try:
            try:
                self._session.prompt()
            finally:
                # Bytes that are no text, and the end of the last line, which many a paste brings along.
                text = self._session.default_buffer.text.encode("utf-8", "replace").decode().rstrip()
                self._leave(text)
        except OSError:
            raise EOFError from None
        return text

    def close(self) -> None:
        """The terminal handles pastes as it did before."""
        # It may have gone away.
        with suppress(OSError):
            self._screen.write(_DO_NOT_MARK_PASTES)
            self._screen.flush()

    def _leave(self, text: str) -> None:
        lines = visible(text).replace("\n", f"\n{self._continuation}")
        # Also while nothing is edited: what is pasted meanwhile is still one text when the next prompt finds it.
        self._screen.write(f"{self._prompt}{lines}\n{_MARK_PASTES}")
        self._screen.flush()

    def _before_line(self, _width: int, _line: int, wraps: int) -> str:
        return "" if wraps else self._continuation


def _bindings() -> KeyBindings:
    bindings = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)

    @bindings.add("enter", filter=typing)
    def _enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state is not None and buffer.complete_state.current_completion is not None:
            # It ends the choice, and not the text.
            buffer.complete_state = None
            return
        longer = begun_line(buffer.text)
        if longer is None:
            buffer.validate_and_handle()
        else:
            buffer.document = Document(longer)

    @bindings.add("escape", "enter", filter=typing)
    @bindings.add("escape", "c-j", filter=typing)
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return bindings


class _Completer(Completer):
    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        del complete_event
        for each in candidates(document.text_before_cursor):
            yield Completion(each.text, -each.replaced, visible(each.shown), visible(each.meaning) or None)


class _History(History):
    """What was typed in this chat and before it. What begins with a space is not remembered, as in shells."""

    def __init__(self, file: InputHistory) -> None:
        super().__init__()
        self._file = file
        self._loaded, self._loaded_strings = True, file.texts()[::-1]

    def append_string(self, string: str) -> None:
        if not string.startswith(" "):
            super().append_string(string)

    def load_history_strings(self) -> Iterable[str]:
        return self._loaded_strings

    def store_string(self, string: str) -> None:
        self._file.add(string)


class _Keys(Vt100Input):
    @property
    def closed(self) -> bool:
        # A terminal that went away may fail to be read for ever.
        return super().closed or not os.isatty(self.fileno())


class _Screen(Vt100_Output):
    def erase_down(self) -> None:
        # In two parts: some terminals keep what is erased from the first row on as if it had scrolled off.
        self.write_raw("\x1b7\x1b[K\x1b[B\x1b[J\x1b8")


def on_screen(screen: TextIO, size: Callable[[], Size]) -> Output:
    """Draws there, and asks nothing: where the cursor is need not be known, and not every terminal says it."""
    return _Screen(screen, size, os.environ.get("TERM"), enable_bell=False, enable_cpr=False)


def _size(screen: TextIO) -> Size:
    try:
        columns, rows = os.get_terminal_size(screen.fileno())
    except OSError:
        columns = rows = 0
    # Some terminals do not know.
    return Size(rows=rows or 24, columns=columns or 80)
