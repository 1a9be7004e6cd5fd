"""Code in colours, line by line as it is written: what spans lines, such as a long string or comment, is known to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pygments.lexer import ExtendedRegexLexer, Lexer, RegexLexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Error, Whitespace, _TokenType
from pygments.util import ClassNotFound
from rich.syntax import Syntax
from rich.text import Text

_TAB_CELLS = 4
# The terminal's own colours, which suit its background.
_THEME = Syntax.get_theme("ansi_dark")
# Comments that many lexers know only once they are closed.
_COMMENTS = (("/*", "*/"), ("<!--", "-->"))


@dataclass(frozen=True)
class _Resume:
    """A position at a line's first character that is not blank, and the lexer's states there."""

    position: int
    states: tuple[str, ...]


class Highlighter:
    """Highlights the lines of one piece of code, in the time that each of them takes.

    Args:
        info: what stands behind a fence; its first word names the language, and one that is not known has no colours.
    """

    def __init__(self, info: str) -> None:
        self._lexer = _lexer(info)
        self._code = ""  # from the line on where lexing is resumed
        self._resume = _Resume(0, ("root",))

    def line(self, text: str) -> Text:
        """The next line, which is complete."""
        return self._highlighted(text.expandtabs(_TAB_CELLS), is_complete=True)

    def open(self, text: str) -> Text:
        """The next line as far as it goes."""
        return self._highlighted(text.expandtabs(_TAB_CELLS), is_complete=False)

    def _highlighted(self, line: str, *, is_complete: bool) -> Text:
        text = Text(line, no_wrap=True, overflow="ignore")
        if self._lexer is None:
            return text
        if not isinstance(self._lexer, RegexLexer) or isinstance(self._lexer, ExtendedRegexLexer):
            _colour(text, 0, self._lexer.get_tokens_unprocessed(line + "\n"))
            return text
        code = f"{self._code}{line}\n"
        tokens, resume = _lexed(self._lexer, code, self._resume)
        _colour(text, len(self._code), tokens)
        if is_complete:
            cut = code.rfind("\n", 0, resume.position) + 1
            self._code = code[cut:]
            self._resume = _Resume(resume.position - cut, resume.states)
        return text


_Token = tuple[int, Any, str]


def _colour(text: Text, offset: int, tokens: Iterator[_Token] | list[_Token]) -> None:
    """Style the text, which stands at `offset` of what was lexed."""
    for position, kind, value in tokens:
        start, end = position - offset, position - offset + len(value)
        if end > 0 and start < len(text):
            text.stylize(_THEME.get_style_for_token(kind), max(start, 0), end)


def _lexer(info: str) -> Lexer | None:
    try:
        return get_lexer_by_name(info.split()[0].strip("{}.").lower())
    except (IndexError, ClassNotFound):
        return None


def _lexed(lexer: RegexLexer, code: str, resume: _Resume) -> tuple[list[_Token], _Resume]:
    """The tokens from `resume` on, and where the next line's lexing may resume: never behind the last token, which more
    text could make longer.
    """
    closed = code + _missing_end(code, resume.position)
    tokens: list[_Token] = []
    states, position = list(resume.states), resume.position
    rules: dict[str, Any] = lexer._tokens  # pyright: ignore[reportAttributeAccessIssue]
    while position < len(code):
        if not code[code.rfind("\n", 0, position) + 1 : position].strip():
            resume = _Resume(position, tuple(states))
        for match_at, action, change in rules[states[-1]]:
            if (match := match_at(closed, position)) is not None:
                tokens += _tokens(lexer, action, position, match)
                position = match.end()
                _change(states, change)
                break
        else:
            kind = Error
            if code[position] == "\n":
                states, kind = ["root"], Whitespace
            tokens.append((position, kind, code[position]))
            position += 1
    return tokens, resume


def _tokens(lexer: RegexLexer, action: Any, position: int, match: Any) -> Iterator[_Token]:
    if isinstance(action, _TokenType):
        yield position, action, match.group()
    elif action is not None:
        yield from action(lexer, match)


def _change(states: list[str], change: Any) -> None:
    """Apply a rule's change of states; the first state always stays."""
    if isinstance(change, int):
        del states[max(1, len(states) + change) :]
        return
    for state in (change,) if isinstance(change, str) else change or ():
        if state == "#pop":
            del states[max(1, len(states) - 1) :]
        else:
            states.append(states[-1] if state == "#push" else state)


def _missing_end(code: str, position: int) -> str:
    """What would close a comment that is open at the end; behind other code it changes nothing."""
    for opening, closing in _COMMENTS:
        begins = code.rfind(opening, position)
        if begins >= 0 and code.find(closing, begins + len(opening)) < 0:
            return closing
    return ""
