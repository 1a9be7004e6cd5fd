"""The pictures of a chat are of this program, and what they show is what the model says."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from program import ROOT

from cli.conversation import Conversation
from cli.views.thought import Thinking
from docs.recording.__main__ import RECORDINGS
from mlx_qnext import Engine
from mlx_qnext.generate.events import Finished
from mlx_qnext.generate.request import GenerationConfig

NAMESPACE = "http://www.w3.org/2000/svg"
MOTION = re.compile(r"@media \(prefers-reduced-motion: no-preference\) {\n.*?\n}", re.DOTALL)


def picture(name: str) -> str:
    return (ROOT / "docs" / f"{name}.svg").read_text(encoding="utf-8")


def lines(name: str) -> list[str]:
    """The lines of the screen at the end, without their indents."""
    rows = ElementTree.fromstring(picture(name)).iterfind(f".//{{{NAMESPACE}}}g[@class='stays']")
    return ["".join(row.itertext()).replace("\N{NO-BREAK SPACE}", " ").strip() for row in rows]


def answers(engine: Engine, questions: list[str]) -> list[Finished]:
    """One conversation, greedily."""
    session, conversation, results = engine.session(), Conversation(None, Thinking.show), []
    for text in questions:
        question = conversation.question(text)
        *_, result = session.generate(conversation.prompt(question), GenerationConfig(temperature=0))
        assert isinstance(result, Finished)
        conversation.answered(question, result)
        results.append(result)
    return results


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_is_shown_and_needs_nothing_from_elsewhere(name: str) -> None:
    assert f"](docs/{name}.svg)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"https?:[^\"]*|@import|\bsrc\b|\bhref\b", picture(name)) == [NAMESPACE]


@pytest.mark.parametrize("name", RECORDINGS)
def test_nothing_moves_where_that_is_not_wanted(name: str) -> None:
    still, media_queries = MOTION.subn("", picture(name))
    assert media_queries == 1
    assert "animation-name" not in still
    assert ".gone { visibility: hidden; }" in still


@pytest.mark.parametrize("name", [pytest.param("chat", marks=pytest.mark.slow), "steps"])
def test_what_is_typed_is_answered_as_the_model_answers(name: str, engine: Engine) -> None:
    (command, typed), shown = RECORDINGS[name], lines(name)
    assert shown[0] == f"$ qnext {command}"
    assert [line for line in shown if line.startswith("›")] == [*(f"› {line}" for line in typed), "›"]
    results = answers(engine, [line for line in typed if not line.startswith("/")])
    thought = results[0].thinking.splitlines()
    assert shown[shown.index("thinking") + 1 :][: len(thought)] == thought
    said = [result.text for result in results]
    assert [line for line in shown if line in said] == said
    assert sum(line.startswith("thought for ") for line in shown) == len(results)
