"""The transcript: thinking, answer and tool calls apart, the same however the text is cut, and nothing lost."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_qnext.transcript import Segment, Transcript

# Texts made of markers, parts of markers and what surrounds them reach every branch far more often than random text.
PIECES = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<",
    "</",
    "<thi",
    "</tool",
    "call>",
    "\n",
    " ",
    "a",
    "{}",
]
texts = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
MARKERS = re.compile("</?think>|</?tool_call>")


def read(pieces, opens_thinking, tools):
    transcript = Transcript(opens_thinking, tools)
    segments = [segment for piece in pieces for segment in transcript.push(piece)]
    return [*segments, *transcript.flush()]


def joined(segments):
    """(thinking, answer, calls): what a front end shows in the end."""
    texts = {kind: "".join(s.text for s in segments if s.kind == kind) for kind in ("thinking", "answer")}
    return texts["thinking"], texts["answer"], [s.text for s in segments if s.kind == "tool_call"]


def parts(text, opens_thinking=False, tools=False):
    return joined(read([text], opens_thinking, tools))


@pytest.mark.parametrize(
    ("opens_thinking", "text", "thinking", "answer"),
    [
        (False, "Hello.", "", "Hello."),
        (False, "<think>\nhm\n</think>\n\nHello.", "hm", "Hello."),
        (False, "\n <think>hm</think>Hello.", "hm", "Hello."),
        (True, "hm\n</think>\n\nHello.", "hm", "Hello."),
        (True, "\n\nhm \n a \n\n</think>\n\n\n  Hello.\n", "hm \n a", "  Hello.\n"),
        (True, "<think>\nhm\n</think>\n\nHello.", "hm", "Hello."),
        (True, "</think>\n\nHello.", "", "Hello."),
        (False, "<think>\n\n</think>\n\nHello.", "", "Hello."),
    ],
)
def test_the_thought_is_apart_from_the_answer(opens_thinking, text, thinking, answer):
    assert parts(text, opens_thinking) == (thinking, answer, [])


@pytest.mark.parametrize(
    ("opens_thinking", "text", "thinking", "answer"),
    [
        (True, "hm \n", "hm \n", ""),
        (True, "hm\n</thi", "hm\n</thi", ""),
        (True, "\n\n", "", ""),
        (False, "<think>\nhm", "hm", ""),
        (False, "<thi", "", "<thi"),
        (False, " \n", "", " \n"),
        (True, "<thi", "<thi", ""),
    ],
)
def test_an_answer_that_ends_early_keeps_what_was_written(opens_thinking, text, thinking, answer):
    assert parts(text, opens_thinking) == (thinking, answer, [])


@pytest.mark.parametrize(
    ("opens_thinking", "text", "thinking", "answer"),
    [
        (False, "Say <think> and </think> now", "", "Say <think> and  now"),
        (False, "\n</think>\n\nHello.", "", "Hello."),
        (False, "a\n</think>\n\nb </think> c", "", "a\n\n\nb </think> c"),
        (True, "a</think>b</think><think>c", "a", "b</think><think>c"),
        (True, "a <think> b</think>c", "a <think> b", "c"),
        (False, "    indented", "", "    indented"),
        (False, "1 < 2 </b> <tool", "", "1 < 2 </b> <tool"),
    ],
)
def test_a_marker_out_of_place_is_text_but_the_first_closing_one(opens_thinking, text, thinking, answer):
    assert parts(text, opens_thinking) == (thinking, answer, [])


CALL = '<tool_call>\n{"name": "add"}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "answer", "calls"),
    [
        (CALL, "", ['{"name": "add"}']),
        (f"Let me see.\n{CALL}\n{CALL}", "Let me see.", ['{"name": "add"}', '{"name": "add"}']),
        (f"{CALL}\n\nDone.\n", "Done.\n", ['{"name": "add"}']),
        (
            "<tool_call>\n<function=f>\n<parameter=a>\n<b>\n</parameter>\n",
            "",
            ["<function=f>\n<parameter=a>\n<b>\n</parameter>"],
        ),
        ("<tool_call>{}</tool", "", ["{}</tool"]),
        ("<tool_call>a<tool_call>b</tool_call>", "", ["a<tool_call>b"]),
        ("<tool_call></tool_call>", "", [""]),
        ("a</tool_call>b \n", "a</tool_call>b \n", []),
        ("\n\n <tool_call>{}</tool_call>", "", ["{}"]),
    ],
)
def test_each_call_is_one_segment_whether_closed_or_not(text, answer, calls):
    assert parts(text, tools=True) == ("", answer, calls)


def test_without_tools_a_call_is_answer_text():
    assert parts(f"x\n{CALL}\n") == ("", f"x\n{CALL}\n", [])


def test_a_call_inside_a_thought_is_thinking():
    assert parts(f"I could {CALL}</think>{CALL}", opens_thinking=True, tools=True) == (
        f"I could {CALL}",
        "",
        ['{"name": "add"}'],
    )


def test_certain_text_is_never_held_back():
    transcript = Transcript(opens_thinking=True, tools=True)
    assert transcript.push("I think") == [Segment("thinking", "I think")]
    assert transcript.push(" so.\n") == [Segment("thinking", " so.")]
    assert transcript.push("\n</th") == []
    assert transcript.push("e end") == [Segment("thinking", "\n\n</the end")]
    assert transcript.push("</think>\n\n") == []
    assert transcript.push("Yes <") == [Segment("answer", "Yes")]
    assert transcript.push("b>") == [Segment("answer", " <b>")]
    assert transcript.push("<tool_call>{") == []
    assert transcript.push("}</tool_call>") == [Segment("tool_call", "{}")]
    assert transcript.flush() == []


def test_without_tools_an_answer_holds_back_no_whitespace():
    transcript = Transcript(opens_thinking=False, tools=False)
    assert transcript.push("Yes. \n") == [Segment("answer", "Yes. \n")]


@settings(max_examples=400, deadline=None)
@given(texts, st.booleans(), st.booleans(), st.data())
def test_how_the_text_is_cut_changes_nothing(text, opens_thinking, tools, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)])]
    whole = joined(read([text], opens_thinking, tools))
    assert joined(read(pieces, opens_thinking, tools)) == whole
    assert joined(read(text, opens_thinking, tools)) == whole


@settings(max_examples=400, deadline=None)
@given(texts | st.text(max_size=40), st.booleans(), st.booleans())
@example("<think>a</think>b<tool_call>c</tool_call>d", False, True)
def test_nothing_but_markers_and_whitespace_is_lost_and_the_order_stays(text, opens_thinking, tools):
    def bare(text):
        return "".join(MARKERS.sub("", text).split())

    written = "".join(segment.text for segment in read([text], opens_thinking, tools))
    assert bare(written) == bare(text)


@settings(max_examples=300, deadline=None)
@given(texts, st.booleans(), st.booleans())
def test_no_piece_of_thinking_or_answer_is_empty(text, opens_thinking, tools):
    assert all(s.text or s.kind == "tool_call" for s in read(text, opens_thinking, tools))


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_characters="<"), max_size=40), st.booleans())
def test_text_without_markers_is_untouched(text, tools):
    assert parts(text, tools=tools) == ("", text, [])
