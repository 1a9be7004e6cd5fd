"""Code that is highlighted line by line looks as it does when all of it is known."""

from __future__ import annotations

import pytest
from pygments.lexers import get_lexer_by_name
from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from cli.views.highlight import Highlighter

_CONSOLE = Console()
CODE = {
    "python": """\
def f(x):
    \'\'\'Says

    # no comment
    \'\'\'
    if x:
        return f"{x!r}" + \\
            "y"
@g
class A: ...
""",
    "js": """\
/**
 * what it does: const x
 */
function f(a) {
  return `a
${a} const b`; // end
}
const g = "src/*";
let h = 1;
""",
    "c": """\
#include <a.h>
/* int x;
   return */ int main(void) {
    char *s = "/* no */";
    return 0; }
""",
    "java": "class A {\n  /* one\n     two class */\n  int x = 1;\n}\n",
    "css": "a {\n  /* b { color:\n red } */ color: blue;\n}\n",
    "rust": '/* a /* b */\n fn */\nfn main() {\n    let s = "x\nfn";\n}\n',
    "html": '<p>a</p>\n<!-- <b>\n </b> -->\n<i class="x">c</i>\n',
    "bash": 'for f in *; do\n  echo "a\n b $f" # done\ndone\n',
    "json": '{"a": [1,\n 2.5, null],\n "b": "c"}\n',
    "sql": "SELECT a -- b\nFROM c /* d\nFROM e */ WHERE x = 'y';\n",
}


def spans(text: Text) -> list[str]:
    """The style of each character that is seen."""
    return [str(text.get_style_at_offset(_CONSOLE, at)) for at, c in enumerate(text.plain) if not c.isspace()]


def known(code: str, language: str) -> list[str]:
    """The same of all lines at once, as the lexer itself has them."""
    theme = Syntax.get_theme("ansi_dark")
    lexer = get_lexer_by_name(language)
    return [
        str(theme.get_style_for_token(kind))
        for _, kind, value in lexer.get_tokens_unprocessed(code)
        for character in value
        if not character.isspace()
    ]


@pytest.mark.parametrize("language", CODE)
def test_lines_look_as_they_do_in_the_whole(language: str) -> None:
    highlighter = Highlighter(language)
    lines = []
    for line in CODE[language].removesuffix("\n").split("\n"):
        for end in range(len(line)):
            assert highlighter.open(line[:end]).plain == line[:end].expandtabs(4)
        lines.append(highlighter.line(line))
    assert "\n".join(line.plain for line in lines) + "\n" == CODE[language]
    assert [style for line in lines for style in spans(line)] == known(CODE[language], language)


@pytest.mark.parametrize("info", ["", "no-such-language", "{.python .x}", "py title=a.py"])
def test_what_stands_behind_a_fence_is_a_language_or_nothing(info: str) -> None:
    line = Highlighter(info).line("\tif x: return 1")
    assert line.plain == "    if x: return 1"
    assert bool(line.spans) is ("py" in info)


def test_lexing_goes_on_where_it_was() -> None:
    highlighter = Highlighter("js")
    for number in range(300):
        highlighter.line(f"    const value{number} = {{ a: '{number}' }};" if number else "function f() {")
        assert len(highlighter._code) < 200
