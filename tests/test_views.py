"""What the terminal shows, at fixed widths and with a clock that is set by hand, against text that is checked in.

A view that changes on purpose: run with QNEXT_WRITE_VIEWS=1, and read the difference before committing it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from fakes.engine import STATS, SUM, answer, finished, thinking
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text
from screens import Terminal

from cli.views.answer import AnswerView
from cli.views.inspection import inspection
from cli.views.progress import Progress
from cli.views.stats import stats_line
from cli.views.status import Setting
from cli.views.thought import Region, Thinking
from cli.views.units import percent, seconds
from mlx_qnext.generate.events import (
    Event,
    ExpertStats,
    GenerationStats,
    MemoryStats,
    MtpStats,
    PrefillProgress,
    TokensEmitted,
)

VIEWS = Path(__file__).parent / "vectors" / "views"
FACTS = {
    "path": "/models/Qwen3-Next-80B-A3B-Thinking-4bit",
    "architecture": "qwen3_next",
    "layers": 48,
    "context": 262144,
    "parameters": {"total": 81_320_000_000, "active": 3_560_000_000},
    "bytes": {"total": 44_800_000_000, "experts": 43_500_000_000, "mtp": 0},
    "quantization": {"experts": ["4-bit g64"], "mtp": []},
    "mtp": False,
    "machine": {
        "backend": "cpu",
        "physical": 25_300_000_000,
        "available": 20_100_000_000,
        "control_group": None,
        "recommended": None,
        "gpu": None,
    },
}

PLAN = {
    "fits": True,
    "regime": "streaming",
    "asked": 8_000_000_000,
    "given": 8_000_000_000,
    "smallest": 4_260_000_000,
    "context": 8192,
    "largest_context": 76_288,
    "largest_resident_context": None,
    "kv_bits": None,
    "chunk": 256,
    "span": 2048,
    "checkpoints": 4,
    "share": 0.0928,
    "slots": {"least": 47, "most": 48, "of": 512},
    "bytes": {
        "total": 7_998_000_000,
        "trunk": 1_533_000_000,
        "experts": 4_573_000_000,
        "cache": 436_000_000,
        "state": 395_000_000,
        "workspace": 612_000_000,
        "headroom": 449_000_000,
    },
}
RESIDENT = PLAN | {
    "regime": "resident",
    "asked": None,
    "given": 60_000_000_000,
    "share": 1.0,
    "slots": {"least": 512, "most": 512, "of": 512},
    "kv_bits": 8,
    "largest_context": 262_144,
    "largest_resident_context": 107_264,
}
MACHINES = {
    "control-group": {"control_group": 16_000_000_000},
    "unified": {"backend": "metal", "recommended": 19_000_000_000},
    "gpu": {"backend": "cuda", "gpu": 80_000_000_000},
}
PLANS = {
    "streaming": PLAN,
    "resident": RESIDENT,
    "too-little": PLAN
    | {"fits": False, "asked": 2_000_000_000, "given": 2_000_000_000, "largest_context": None},
    "dense": RESIDENT | {"slots": None, "largest_resident_context": 262_144},
}

STREAMED = ExpertStats(940, 60, 12_300_000_000, 10, 11_000_000_000, 44_000_000_000)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.5
        return self.now


def console(width: int, *, terminal: bool = True, color: bool = True) -> tuple[Console, StringIO]:
    file = StringIO()
    made = Console(
        file=file,
        width=width,
        force_terminal=terminal,
        color_system="auto" if terminal and color else None,
        no_color=not color,
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=True,
        legacy_windows=False,
        _environ={"TERM": "xterm"},
    )
    return made, file


def shown(
    events: Iterable[Event], width: int, *, thinking_is: Thinking, terminal: bool, color: bool = True
) -> str:
    """What is written to both streams, where each group of tokens takes half a second and only groups repaint."""
    screen, file = console(width, terminal=terminal, color=color)
    now = 0.0
    view = AnswerView(screen, screen, thinking_is, clock=lambda: now, beats=False)
    for event in events:
        if isinstance(event, TokensEmitted):
            view.update(event)
            now += 0.5
    view.finish()
    return file.getvalue()


def check(name: str, text: str) -> None:
    path = VIEWS / f"{name}.txt"
    if os.environ.get("QNEXT_WRITE_VIEWS"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("thinking_is", Thinking)
@pytest.mark.parametrize("width", [40, 80, 200])
def test_an_answer_as_the_screen_shows_it_after_each_group(thinking_is: Thinking, width: int) -> None:
    terminal, now = Terminal(width), 0.0
    screen = terminal.console()
    setting = Setting("thinking-4bit", 8192)
    view = AnswerView(screen, screen, thinking_is, clock=lambda: now, setting=setting, beats=False)
    frames = []
    for event in SUM:
        if isinstance(event, PrefillProgress):
            view.prefill(event)
        elif isinstance(event, TokensEmitted):
            now += 0.5
            view.update(event)
            frames.append(terminal.text())
    view.finish()
    check(f"answer-{thinking_is}-{width}", "\n".join([*frames, terminal.text()]))


def test_off_a_terminal_nothing_but_text_is_written() -> None:
    text = shown(SUM, 80, thinking_is=Thinking.show, terminal=False)
    check("answer-plain", text)
    assert "\x1b" not in text


def test_a_hidden_thought_leaves_one_line() -> None:
    check("answer-hidden", shown(SUM, 80, thinking_is=Thinking.hide, terminal=False))


@pytest.mark.parametrize("text", ["7 + 5", "7 + 5\n"])
def test_off_a_terminal_a_notice_within_a_thought_or_an_answer_is_a_line(text: str) -> None:
    (out, answered), (err, said) = console(80, terminal=False), console(80, terminal=False)
    view = AnswerView(out, err, Thinking.show, clock=lambda: 0.0)
    view.update(thinking(text, 5))
    view.notice("The thought was closed.")
    view.update(answer("12", 1))
    view.notice("The answer fills the context.")
    view.finish()
    assert said.getvalue() == (
        "thinking\n7 + 5\nThe thought was closed.\nthought for 0 s · 5 tokens\n\nThe answer fills the context.\n"
    )
    # To the character.
    assert answered.getvalue() == "12\n"


def test_in_a_dumb_terminal_a_notice_within_an_answer_is_a_line() -> None:
    terminal = Terminal(80)
    dumb = terminal.console(_environ={"TERM": "dumb"}, color_system=None)
    view = AnswerView(dumb, dumb, Thinking.show, clock=lambda: 0.0)
    view.update(answer("It is ", 1))
    view.notice("A note.")
    view.update(answer("12", 1))
    view.finish()
    assert terminal.rows() == ["It is", "A note.", "12"]


def test_without_colour_there_is_none() -> None:
    text = shown(SUM, 80, thinking_is=Thinking.show, terminal=True, color=False)
    assert not any(f"\x1b[{code}" in text for code in ("31", "32", "33", "34", "35", "36"))


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_thought_that_collapses_shows_its_last_lines_while_it_lasts(width: int) -> None:
    screen, file = console(width, terminal=False)
    thought = (
        "not seen any more\n" * 9
        + "\n寿司を三貫とお茶を二杯頼むと全部でいくらになるか計算する 🍣🍣🍣\n"
        + "and so on " * 12
    )
    screen.print(Region(Text("thinking 3.2 s · 124 tokens"), thought))
    check(f"region-{width}", file.getvalue())
    assert max(map(cell_len, file.getvalue().splitlines())) <= width


def test_a_thought_that_waits_for_experts_says_what_was_read() -> None:
    terminal = Terminal(80)
    screen = terminal.console()
    view = AnswerView(screen, screen, Thinking.hide, clock=Clock(), beats=False)
    view.experts(STREAMED)
    view.update(thinking("7 + 5", 2))
    assert "experts" not in terminal.text()
    view.experts(STREAMED)
    assert "tokens · 12.30 GB of experts read" in terminal.text()
    view.finish()
    assert terminal.text().startswith("thought for ")
    assert terminal.text().endswith(" s · 2 tokens\n")


def test_a_thought_that_would_collapse_streams_where_it_cannot() -> None:
    assert shown(SUM, 80, thinking_is=Thinking.collapse, terminal=False) == shown(
        SUM, 80, thinking_is=Thinking.show, terminal=False
    )


def test_an_answer_is_written_to_the_character_where_no_terminal_reads_it() -> None:
    text = "all:\n\tcc -o a a.c\r\n\x1b[31m\x07\x0c"
    assert shown([answer(text)], 80, thinking_is=Thinking.show, terminal=False) == f"{text}\n"


def test_control_characters_of_the_model_do_not_reach_a_terminal() -> None:
    events = [thinking("a\x1b[2J"), answer("b\x1b]0;title\x07\x9bc\r\n\td")]
    text = shown(events, 80, thinking_is=Thinking.show, terminal=True)
    assert "a␛[2J" in text
    assert "b␛]0;title␇\ufffdc\nd\n" in text


def test_the_models_text_means_itself() -> None:
    text = "[bold]x[/bold] :smile: 寿司 🍣 שלום " + "long " * 60
    assert shown([answer(text)], 40, thinking_is=Thinking.show, terminal=False) == f"{text}\n"


def test_a_thought_that_never_ends_is_closed_on_screen() -> None:
    check(
        "thought-unclosed", shown([thinking("still going", 3)], 80, thinking_is=Thinking.show, terminal=False)
    )


def test_an_answer_that_ends_its_line_gets_no_second_one() -> None:
    assert shown([answer("done\n")], 80, thinking_is=Thinking.show, terminal=False) == "done\n"


@pytest.mark.parametrize("width", [40, 80])
def test_a_models_facts(width: int) -> None:
    screen, file = console(width, terminal=False)
    screen.print(inspection(FACTS))
    check(f"inspection-{width}", file.getvalue())


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_of_memory_beside_a_models_facts(name: str) -> None:
    screen, file = console(80, terminal=False)
    screen.print(inspection(FACTS | {"plan": PLANS[name]}))
    check(f"inspection-{name}", file.getvalue())


@pytest.mark.parametrize("name", MACHINES)
def test_what_was_found_of_memory_and_who_says_so(name: str) -> None:
    screen, file = console(80, terminal=False)
    screen.print(inspection(FACTS | {"plan": PLAN, "machine": FACTS["machine"] | MACHINES[name]}))
    check(f"inspection-{name}", file.getvalue())


def test_the_figures_of_an_answer_in_words() -> None:
    assert stats_line(finished()) == "77 tokens · 91.2 tok/s · first after 0.13 s · prompt 18 at 140.0 tok/s"
    cut = finished(reason="length", stats=GenerationStats(60, 18, 10, 12_300.0, 1.0, 0.0))
    assert (
        stats_line(cut)
        == "10 tokens · first after 12 s · prompt 60 (18 cached) at 1.0 tok/s · cut off at the token limit"
    )
    drafted = MtpStats(26, 52, 47, (0.96, 0.85), 2.57, 1.62)
    assert stats_line(finished(stats=replace(STATS, mtp=drafted))) == (
        "77 tokens · 91.2 tok/s · 2.6 a step · drafts stood 96, 85 % · 1.6× plain (estimate)"
        " · first after 0.13 s · prompt 18 at 140.0 tok/s"
    )
    assert stats_line(finished(stats=replace(STATS, experts=STREAMED))) == (
        "77 tokens · 91.2 tok/s · experts hit 94 %, read 12.30 GB, 25 % in memory"
        " · first after 0.13 s · prompt 18 at 140.0 tok/s"
    )
    nothing_read = replace(STREAMED, hits=5, misses=0, read_bytes=0)
    assert stats_line(finished(stats=replace(STATS, experts=nothing_read))) == stats_line(finished())
    nothing_drafted = replace(STATS, mtp=MtpStats(0, 0, 0, (), 1.0, 1.0))
    assert stats_line(finished(stats=nothing_drafted)) == stats_line(finished())
    stopped = finished(reason="cancelled", stats=GenerationStats(60, 0, 0, 0.0, 1.0, 0.0))
    assert stats_line(stopped) == "0 tokens · prompt 60 at 1.0 tok/s · stopped"
    assert STATS.cached_tokens == 0


def test_one_token_is_not_many_and_a_moment_has_no_digits() -> None:
    now, terminal = 0.0, Terminal(80)
    screen = terminal.console()
    view = AnswerView(screen, screen, Thinking.collapse, clock=lambda: now, beats=False)
    view.update(thinking("well", 1))
    now = 0.0001
    view.update(thinking(" then", 0))
    assert " thinking 0 s · 1 token\n" in terminal.text()
    view.finish()
    assert terminal.text().startswith("thought for 0 s · 1 token\n")
    one = finished(stats=GenerationStats(60, 0, 1, 130.0, 1.0, 0.0))
    assert stats_line(one).startswith("1 token · first after")


@pytest.mark.parametrize("width", [200, 120, 80, 40, 12, 5])
def test_the_least_important_figures_give_way_to_a_narrow_terminal(width: int) -> None:
    drafted = MtpStats(26, 52, 47, (0.96, 0.85), 2.57, 1.62)
    stats = replace(
        STATS,
        mtp=drafted,
        experts=STREAMED,
        memory=MemoryStats(8_000_000_000, 7_500_000_000),
        forecast_tps=50.0,
    )
    line = stats_line(finished(reason="length", stats=stats), Setting("寿司-4bit", 8192), width)
    check(f"figures-{width}", f"{line}\n")
    assert cell_len(line) <= width


@pytest.mark.parametrize(
    ("value", "words"), [(0.131, "0.13 s"), (3.21, "3.2 s"), (12.4, "12 s"), (185.0, "3 min 5 s")]
)
def test_durations_in_words(value: float, words: str) -> None:
    assert seconds(value) == words


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.0, "0 %"), (0.001, "1 %"), (0.57, "57 %"), (0.996, "99 %"), (0.99999, "99 %"), (1.0, "100 %")],
)
def test_a_share_is_said_to_be_all_or_nothing_only_where_it_is(share: float, words: str) -> None:
    assert percent(share) == words


def test_progress_off_a_terminal_is_a_line_at_every_tenth() -> None:
    screen, file = console(80, terminal=False)
    with Progress(screen, "Downloading", "bytes", clock=Clock()) as progress:
        for done in range(0, 101, 5):
            progress.update(done, 100)
    assert file.getvalue().splitlines() == [f"Downloading: {n} %" for n in range(10, 101, 10)]


def test_progress_where_no_cursor_can_be_moved_is_lines_too() -> None:
    terminal = Terminal(80)
    dumb = terminal.console(_environ={"TERM": "dumb"}, color_system=None)
    with Progress(dumb, "Downloading", "bytes", clock=Clock()) as progress:
        for done in range(0, 101, 25):
            progress.update(done, 100)
    assert terminal.rows() == [f"Downloading: {n} %" for n in (20, 50, 70, 100)]
    assert "\x1b" not in terminal.written


def test_progress_of_short_work_shows_nothing() -> None:
    screen, file = console(80)
    with Progress(screen, "Loading layers", "count", clock=lambda: 0.0) as progress:
        progress.update(1, 2)
        progress.update(2, 2)
    assert file.getvalue() == ""


def test_a_bar_shows_what_is_done_and_leaves_no_trace() -> None:
    screen, file = console(80)
    with Progress(screen, "Reading the prompt", "count", clock=Clock()) as progress:
        progress.update(1, 4)
        progress.update(2, 4)
    assert "Reading the prompt" in file.getvalue()
    assert "2/4" in file.getvalue()
