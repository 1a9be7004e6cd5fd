"""Whether an answer is right."""

from __future__ import annotations

import json
import re

from demo.problem import Problem


def answer_of(text: str) -> str:
    """Return what follows the thinking, without the end mark."""
    return text.split("</think>")[-1].replace("<|im_end|>", "").strip()


def called(text: str) -> object:
    """Return the first tool call in a text as JSON, or None where there is none that can be read."""
    match = re.search(r"<tool_call>\n(.*?)\n</tool_call>", text, re.DOTALL)
    try:
        return json.loads(match[1]) if match else None
    except json.JSONDecodeError:
        return None


def is_correct(problem: Problem, text: str) -> bool:
    """Tell whether `text` answers a problem.

    Numbers: the last number is the gold one. Tool calls: name and arguments are equal. Letter by letter: the letters
    agree, however they are joined. Talk: it is one of the ready answers. Otherwise: the gold text occurs as a whole.
    """
    answer, gold = answer_of(text), problem.gold
    if problem.task == "tool call":
        return called(answer) == json.loads(gold)
    if problem.task == "tool answer":
        return "<tool_call>" not in answer and all(fact in answer for fact in gold.split("\n"))
    if problem.task == "talk":
        return answer in gold.split("|")
    if problem.task == "about last":
        return gold in answer
    if re.fullmatch(r"-?\d+", gold):
        found = re.findall(r"(?<!\d)-?\d+", answer)
        return bool(found) and found[-1] == gold
    if problem.task.startswith(("reverse", "spell")):
        return gold in answer or re.search(rf"\b{gold.replace('-', '')}\b", answer) is not None
    return re.search(rf"(?<!\w){re.escape(gold)}(?!\w)", answer) is not None
