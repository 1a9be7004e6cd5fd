"""Writes chats of held-out problems, answered greedily by a model, as JSON lines to evaluate other weights of it on.

    python -m demo.transcripts FOLDER OUT.jsonl     then benchmarks/quality.py … OUT.jsonl

Each line is `{"text": …, "context_tokens": …}`: prompt and answer with every special token spelled out, and how many tokens of
that are prompt. Only text gives back the tokens that were read and said: a template writes thoughts and tool calls its own way.
What does not come back exactly is left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer

import mlx_qnext
from demo.cases import Case, cases
from demo.evaluate import LIMIT, NOT_HELD_OUT
from mlx_qnext.generate.events import Event, TokensEmitted


def held_out(count: int) -> list[Case]:
    """Return `count` chats of each task that no model was trained on, with and without thinking."""
    found = [case for thinking in (True, False) for case in cases(count, thinking)]
    return [case for case in found if case.task not in NOT_HELD_OUT]


def transcripts(folder: Path, asked: list[Case]) -> Iterator[dict[str, str | int]]:
    """Yield a line for each case that comes back exactly."""
    engine = mlx_qnext.load(folder)
    spelled = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for case in asked:
        thinking, tools = None if case.thinking else False, list(case.chat.tools) or None
        prompt = engine.tokenizer.prompt(case.messages, tools, thinking)
        config = mlx_qnext.GenerationConfig(temperature=0, max_tokens=LIMIT, thinking=thinking)
        said = _answer(engine.session().generate(case.messages, config, tools))
        text = prompt.text + spelled.decode(said, skip_special_tokens=False)
        if engine.tokenizer.encode(text) == [*prompt.token_ids, *said]:
            yield {"text": text, "context_tokens": len(prompt.token_ids)}


def _answer(events: Iterable[Event]) -> list[int]:
    """Return the tokens said, their end included."""
    return [token for event in events if isinstance(event, TokensEmitted) for token in event.token_ids]


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("-n", dest="count", type=int, default=1, help="chats per task and mode")
    arguments = parser.parse_args()
    asked = held_out(arguments.count)
    lines = [json.dumps(line) for line in transcripts(arguments.folder, asked)]
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} of {len(asked)} chats in {arguments.out}")


if __name__ == "__main__":
    main()
