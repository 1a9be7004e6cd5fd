"""What a conversation came to, and how its answers ended."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from chats import one_turn, text
from fakes.engine import STATS, finished

from cli.actions import ShowFigures
from cli.commands import read
from cli.conversation import Conversation
from cli.totals import Totals
from cli.views.figures import figures
from cli.views.stats import stats_line
from cli.views.status import Setting
from mlx_qnext.generate.events import ExpertStats, MemoryStats, MtpStats


@pytest.fixture
def conversation() -> Conversation:
    """Of one turn."""
    return one_turn()


def test_they_are_of_the_last_answer_and_of_all(conversation: Conversation) -> None:
    assert read("/stats", conversation) == ShowFigures()
    totals = Totals()
    for cached in (0, 10):
        stats = replace(
            STATS,
            cached_tokens=cached,
            mtp=MtpStats(3, 8, 6, (0.75,), 1.5, None),
            experts=ExpertStats(80, 20, 2_000_000, 5, 10, 100),
            memory=MemoryStats(3_000_000_000, 1_000_000_000 + cached),
        )
        totals.add(finished(stats=stats))
    shown = text(figures(totals, Setting("demo", 32768), 1234), 240)
    last, conversation_row, context = shown.splitlines()
    assert "demo · 77 tokens" in last
    assert "2 answers · 154 tokens · 91.2 tok/s · prompts 36 (10 cached)" in conversation_row
    assert "drafts stood 75 % · experts hit 80 %, read 4.00 MB · memory at most 1.00 GB" in conversation_row
    assert context.split(maxsplit=1)[1].strip() == "1,234 of 32,768"


def test_before_the_first_answer_there_is_the_context() -> None:
    assert text(figures(Totals(), Setting("demo", 4096), 0)).split() == ["context", "0", "of", "4,096"]


@pytest.mark.parametrize(("end", "said"), [("unclosed", "thought cut off"), ("closed", "· cut off")])
def test_a_thought_that_was_cut_off_is_told_from_an_answer(end: Any, said: str) -> None:
    result = replace(finished("", "hm", "length"), thought_end=end)
    assert f"{said} at the token limit" in stats_line(result)
