"""An answer ends before a stop string, however the text comes in pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlx_qnext.generate.stop_strings import StopStrings

pieces_of_ab = st.lists(st.text("ab", max_size=4), max_size=12)
strings = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


@given(pieces_of_ab, strings)
def test_what_passes_is_the_text_before_the_first_stop_string(pieces: list[str], stops: list[str]) -> None:
    stop, text = StopStrings(stops), "".join(pieces)
    passed = ""
    for piece in pieces:
        passed += stop.push(piece)
        if stop.found:
            break
    passed += stop.flush()
    # The string that is complete first ends the answer; of those complete in one piece, the one that starts first.
    complete = min((text.index(s) + len(s) for s in stops if s in text), default=None)
    assert stop.found == (complete is not None)
    if complete is None:
        assert passed == text
    else:
        assert text.startswith(passed)
        assert not any(s in passed for s in stops)


@given(pieces_of_ab, strings)
def test_text_that_cannot_begin_a_stop_string_passes_at_once(pieces: list[str], stops: list[str]) -> None:
    stop, passed, seen = StopStrings(stops), "", ""
    for piece in pieces:
        passed += stop.push(piece)
        seen += piece
        if stop.found:
            break
        held = seen[len(passed) :]
        assert not held or any(s.startswith(held) for s in stops)


def test_nothing_passes_after_it() -> None:
    stop = StopStrings(["\n\n"])
    assert stop.push("one\n") == "one"
    assert stop.push("\ntwo") == ""
    assert stop.push("three") + stop.flush() == ""
    assert stop.found
