"""When Enter sends a text and when it begins another line of it."""

from __future__ import annotations

import pytest

from cli.multiline import begun_line, meant


@pytest.mark.parametrize(
    ("text", "longer"),
    [
        ("one\\", "one\n"),
        ("\\", "\n"),
        ("one\\\\\\", "one\\\\\n"),
        ("one\ntwo\\", "one\ntwo\n"),
        ('"""', '"""\n'),
        (' """one', ' """one\n'),
        ('"""one\n"""two', '"""one\n"""two\n'),
        ('"""one\n\ntwo\\', '"""one\n\ntwo\\\n'),
        # Code that is pasted into a text may have such quotes of its own.
        ('"""\ndef f():\n    """Nothing."""\n    pass', '"""\ndef f():\n    """Nothing."""\n    pass\n'),
    ],
)
def test_a_text_that_goes_on_has_another_line(text: str, longer: str) -> None:
    assert begun_line(text) == longer


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ""),
        ("one", "one"),
        (" one\ntwo ", " one\ntwo "),
        ("C:\\\\", "C:\\\\"),
        ("\\one", "\\one"),
        ('say """ or', 'say """ or'),
        ('"""one"""', "one"),
        ('""""""', ""),
        ('"""one\\"""', "one\\"),
        (' """one\n\n  two\n""" ', "one\n\n  two\n"),
        # A file of Python that was pasted.
        ('"""One."""\nimport os', '"""One."""\nimport os'),
    ],
)
def test_a_complete_text_means_what_it_says_without_quotes(text: str, said: str) -> None:
    assert begun_line(text) is None
    assert meant(text) == said
