"""Measures how many held-out problems a checkpoint solves, greedily, per task, with and without thinking.

    python -m demo.evaluate FOLDER --engine -n 100     through mlx_qnext, as users meet the model
    python -m demo.evaluate FOLDER -n 100              through the PyTorch model of this recipe, in batches

Prints a table in Markdown. `--wrong N` also prints up to N failures of each task.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from demo.cases import Case, cases
from demo.scoring import is_correct

LIMIT = 400
BATCH = 64
Answers = Iterator[tuple[Case, str]]
NOT_HELD_OUT = frozenset({"talk", "recall"})


def engine_answers(folder: Path, asked: Sequence[Case]) -> Answers:
    """Yield the project's own engine's answers, one after the other."""
    import mlx_qnext
    from mlx_qnext.generate.events import Finished

    engine = mlx_qnext.load(str(folder))
    for case in asked:
        thinking = None if case.thinking else False
        config = mlx_qnext.GenerationConfig(temperature=0, max_tokens=LIMIT, thinking=thinking)
        for event in engine.session().generate(case.messages, config, list(case.chat.tools) or None):
            if isinstance(event, Finished):
                calls = "".join(f"<tool_call>\n{call.strip()}\n</tool_call>" for call in event.tool_calls)
                yield case, event.text + calls


def torch_answers(folder: Path, asked: Sequence[Case]) -> Answers:
    """Yield the PyTorch model's answers, in batches of similar length."""
    import jinja2.sandbox
    from tokenizers import Tokenizer

    from demo import export
    from demo.decoding import generate
    from demo.tokenizer import END, token_id

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string((folder / "chat_template.jinja").read_text())
    tokenizer, model = Tokenizer.from_file(str(folder / "tokenizer.json")), export.load(folder)

    def prompt(case: Case) -> list[int]:
        text = template.render(
            messages=case.messages,
            tools=list(case.chat.tools) or None,
            add_generation_prompt=True,
            enable_thinking=case.thinking,
        )
        return tokenizer.encode(text, add_special_tokens=False).ids

    prompts = sorted(((prompt(case), case) for case in asked), key=lambda pair: len(pair[0]))
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        written = generate(model, [ids for ids, _ in batch], token_id(tokenizer, END), LIMIT)
        for (_, case), ids in zip(batch, written, strict=True):
            yield case, tokenizer.decode(ids, skip_special_tokens=False)


Scores = dict[str, dict[bool, tuple[int, int]]]


def score(answers: Answers, wrong: int) -> Scores:
    """Return (solved, asked) for each task and mode; print up to `wrong` failures of each."""
    scores: Scores = defaultdict(lambda: {True: (0, 0), False: (0, 0)})
    for case, text in answers:
        right = is_correct(case.problem, text)
        solved, asked = scores[case.task][case.thinking]
        if not right and asked - solved < wrong:
            mode = "thinking" if case.thinking else "plain"
            question = case.messages[-1]["content"]
            print(
                f"[{case.task}, {mode}] {question!r} → {text[-160:]!r}, not {case.problem.gold!r}",
                file=sys.stderr,
            )
        scores[case.task][case.thinking] = (solved + right, asked + 1)
    return scores


def _cell(solved: int, asked: int) -> str:
    return f"{100 * solved / asked:.1f} %" if asked else "–"


def table(scores: Scores) -> str:
    """Return the scores as a Markdown table, with the totals over all held-out tasks."""
    lines = ["| task | thinking | plain |", "| --- | ---: | ---: |"]
    for task in sorted(scores):
        mark = " (not held out)" if task in NOT_HELD_OUT else ""
        lines.append(f"| {task}{mark} | {_cell(*scores[task][True])} | {_cell(*scores[task][False])} |")
    totals = []
    for mode in (True, False):
        held_out = [by_mode[mode] for task, by_mode in scores.items() if task not in NOT_HELD_OUT]
        totals.append(_cell(sum(solved for solved, _ in held_out), sum(asked for _, asked in held_out)))
    return "\n".join([*lines, f"| **all held-out tasks** | **{totals[0]}** | **{totals[1]}** |"])


def main() -> None:
    """Evaluate a folder and print the table."""
    parser = argparse.ArgumentParser(description="Measure the demo model on held-out problems.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("-n", dest="count", type=int, default=24, help="problems per task and mode")
    parser.add_argument("--engine", action="store_true", help="through mlx_qnext instead of PyTorch")
    parser.add_argument("--tasks", default="", help="only these tasks, separated by commas")
    parser.add_argument("--wrong", type=int, default=0, help="failures to print per task and mode")
    arguments = parser.parse_args()
    tasks = frozenset(filter(None, arguments.tasks.split(",")))
    asked = [case for mode in (True, False) for case in cases(arguments.count, mode, tasks)]
    answers: Callable[[Path, Sequence[Case]], Answers] = engine_answers if arguments.engine else torch_answers
    begin = time.time()
    scores = score(answers(arguments.folder, asked), arguments.wrong)
    print(table(scores))
    print(f"\n{arguments.count} problems a cell, {len(asked)} in all, {time.time() - begin:.0f} s.")


if __name__ == "__main__":
    main()
