"""What showing an answer in a terminal costs: per token, as the answer grows, at 100 tokens a second.

python benchmarks/rendering.py [--columns 80] [--lines 24]

The clock is set by hand, so that paints come as often as they do at that rate, and the processor's time is measured. Nothing
holds paints back here as a view does that finds them costly.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from time import process_time

from measure import machine
from rich.console import Console

from cli.views.answer import AnswerView
from cli.views.thought import Thinking
from mlx_qnext.generate.events import TokensEmitted
from mlx_qnext.transcript import Kind, Segment

TOKEN_CHARACTERS = 4
TOKENS_PER_S = 100
WINDOWS = ((0, 100), (500, 1_000), (9_000, 10_000))
PROSE = "It follows that **both** sums are `even`, as was to be shown for every n that is larger than four. "
LIST = "1. The first step, *carefully*.\n   - and what it needs\n2. The second one, which takes longer.\n\n"
CODE = 'def carry(a: int, b: int) -> bool:\n    """Whether it is needed."""\n    return a + b >= 10  # one digit\n\n'
TABLE = "| n | square |\n|--:|---|\n| 12 | 144 |\n| 13 | 169 |\n\n"
TEXTS: dict[str, tuple[Kind, Thinking, str, str]] = {
    "an answer of many blocks": (
        "answer",
        Thinking.show,
        "",
        PROSE * 4 + f"\n\n{LIST}```python\n{CODE}```\n\n{TABLE}",
    ),
    "one block of code": ("answer", Thinking.show, "```python\n", CODE),
    "one list": ("answer", Thinking.show, "", LIST.replace("\n\n", "\n")),
    "one paragraph that does not end": ("answer", Thinking.show, "", PROSE),
    "a thought that is shown": ("thinking", Thinking.show, "", PROSE * 4 + "\n\n"),
    "a thought that collapses": ("thinking", Thinking.collapse, "", PROSE * 4 + "\n\n"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, default=80)
    parser.add_argument("--lines", type=int, default=24)
    size = parser.parse_args()
    print(f"{machine()}; {size.columns} columns, {size.lines} lines\n")
    heads = [f"tokens {first + 1:,} to {last:,}" for first, last in WINDOWS]
    print(
        f"| µs a token | {' | '.join(heads)} | a core at {TOKENS_PER_S} tok/s | bytes a token | at its end, ms |"
    )
    print(f"|---|{'---:|' * 6}")
    for name, shown in TEXTS.items():
        _run(shown, 300, size)  # imports and caches
        times_s, end_s, nbytes = _run(shown, WINDOWS[-1][1], size)
        costs = [1e6 * (times_s[last] - times_s[first]) / (last - first) for first, last in WINDOWS]
        share = times_s[-1] / len(times_s) * TOKENS_PER_S
        means = " | ".join(f"{cost:.0f}" for cost in costs)
        print(
            f"| {name} | {means} | {share:.1%} | {nbytes / len(times_s):.0f} | {1e3 * end_s:.1f} |",
            flush=True,
        )


def _run(
    shown: tuple[Kind, Thinking, str, str], tokens: int, size: argparse.Namespace
) -> tuple[list[float], float, int]:
    """The processor's seconds before each token and after the last, those of the end, and the bytes sent to the terminal."""
    kind, thinking, opening, text = shown
    now = 0.0
    with Path("/dev/null").open("w", encoding="utf-8") as terminal:
        file = _Counted(terminal)
        console = Console(
            file=file,  # pyright: ignore[reportArgumentType]
            force_terminal=True,
            color_system="256",
            width=size.columns,
            height=size.lines,
        )
        view = AnswerView(console, console, thinking, clock=lambda: now, beats=False)
        events = [TokensEmitted((0,), (Segment(kind, piece),)) for piece in _pieces(opening, text, tokens)]
        start_s = process_time()
        times_s = [0.0]
        for event in events:
            now += 1 / TOKENS_PER_S
            view.update(event)
            times_s.append(process_time() - start_s)
        view.finish()
        return times_s, process_time() - start_s - times_s[-1], file.nbytes


def _pieces(opening: str, text: str, tokens: int) -> Iterator[str]:
    characters = cycle(text)
    yield opening or "".join(islice(characters, TOKEN_CHARACTERS))
    for _ in range(tokens - 1):
        yield "".join(islice(characters, TOKEN_CHARACTERS))


class _Counted:
    """A file that counts what is written to it."""

    encoding = "utf-8"

    def __init__(self, file: object) -> None:
        self._file, self.nbytes = file, 0

    def write(self, text: str) -> int:
        self.nbytes += len(text.encode())
        return self._file.write(text)  # pyright: ignore[reportAttributeAccessIssue]

    def flush(self) -> None:
        self._file.flush()  # pyright: ignore[reportAttributeAccessIssue]


if __name__ == "__main__":
    main()
