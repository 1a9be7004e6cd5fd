"""A conversation of twenty turns with thinking on the embedded model: what each turn reads, and when its first text comes.

python benchmarks/conversation.py [--rounds 3] [--turns 20] [--json FILE]

Beside mlx-lm's server on the same weights, with a `seed` in each request and without. All decode greedily up to the same limit,
and each gets its own replies back with the next question. mlx-lm's server is started anew for every conversation, on a copy of
the weights whose bf16 tensors are written as fp32, because qnext computes in fp32 on a CPU. All take a turn before any
takes the next, and each time is the median over the rounds.

Exits with 1 where qnext read other tokens of a prompt than the new ones.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from dialogue import QUESTIONS, Answerer, Reply, Turn, next_turn
from interruptions import interruptions
from measure import machine
from mlx_lm_server import copy_in_fp32, serving
from own_answers import answerer, new_tokens
from restarted import restarting_answerer

import mlx_qnext
from mlx_qnext import Engine

LIMIT = 192
# As Qwen-Agent puts one into every request.
SEED = 7
READS_AHEAD, RESTARTED = "qnext, reading ahead", "qnext, restarted every turn"
OWN = ("qnext, nothing drafted", "qnext", READS_AHEAD, RESTARTED)
PEERS = ("mlx-lm", "mlx-lm with seed")
# Who holds the conversation, from its beginning.
Way = Callable[[], AbstractContextManager[Answerer]]
Conversations = dict[str, list[list[Turn]]]


def main() -> None:
    arguments = _arguments()
    print(f"{machine()}\n", flush=True)
    engine = mlx_qnext.load("demo")
    with TemporaryDirectory() as scratch:
        held = _hold(_ways(engine, Path(scratch)), arguments.rounds, arguments.turns)
    expected = {
        name: new_tokens(engine, turns[0], read_ahead=name == READS_AHEAD) for name, turns in held.items()
    }
    _table(held, expected)
    _summary(held, expected)
    interruptions(engine, held[READS_AHEAD][0], LIMIT)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "conversations": _plain(held)}, indent=1))
    sys.exit(0 if _all_exact(held, expected) else 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=len(QUESTIONS), choices=range(2, len(QUESTIONS) + 1))
    parser.add_argument("--json", type=Path, help="a file for every turn of every round")
    return parser.parse_args()


def _ways(engine: Engine, scratch: Path) -> dict[str, Way]:
    fp32 = copy_in_fp32(scratch / "fp32")

    def own(draft: int | None, *, reads_ahead: bool = False) -> Way:
        @contextmanager
        def session() -> Iterator[Answerer]:
            yield answerer(engine, LIMIT, draft=draft, reads_ahead=reads_ahead)

        return session

    @contextmanager
    def restarted() -> Iterator[Answerer]:
        with TemporaryDirectory(dir=scratch) as sessions:
            yield restarting_answerer(Path(sessions), LIMIT)

    def peer(extra: dict[str, int]) -> Way:
        @contextmanager
        def server() -> Iterator[Answerer]:
            with serving(fp32, LIMIT, extra) as started:
                yield started.answer

        return server

    mine = own(0), own(None), own(None, reads_ahead=True), restarted
    return dict(zip(OWN + PEERS, (*mine, peer({}), peer({"seed": SEED}))))


def _hold(ways: dict[str, Way], rounds: int, turns: int) -> Conversations:
    """Every way's conversations, one a round."""
    held: Conversations = {name: [] for name in ways}
    for number in range(rounds + 1):
        with ExitStack() as stack:
            answerers = {name: stack.enter_context(way()) for name, way in ways.items()}
            found = _side_by_side(answerers, turns if number else 2)
        if number:  # the first round warms up
            for name, conversation in found.items():
                held[name].append(conversation)
    return held


def _side_by_side(answerers: dict[str, Answerer], turns: int) -> dict[str, list[Turn]]:
    """One conversation of each, every turn of all before the next of any."""
    held: dict[str, list[Turn]] = {name: [] for name in answerers}
    for question in QUESTIONS[:turns]:
        for name, answer in answerers.items():
            held[name].append(next_turn(held[name], question, answer))
    return held


def _table(held: Conversations, expected: dict[str, list[int]]) -> None:
    """Turn by turn: the prompt, the tokens that are new in it, and for each way what it read and when the text came."""
    print("| turn | prompt | new |" + "".join(f" {name} | ms |" for name in held))
    print("|---:|" + "---:|" * (2 + 2 * len(held)))
    for at, turn in enumerate(held["qnext"][0]):
        cells = [str(at + 1), str(turn.reply.prompt_tokens), str(expected["qnext"][at])]
        for conversations in held.values():
            first = conversations[0][at].reply
            cells += [f"{first.cached_tokens} + {first.read_tokens}", f"{_text_ms(conversations, at):.0f}"]
        print("| " + " | ".join(cells) + " |")


def _text_ms(conversations: list[list[Turn]], at: int) -> float:
    return median(turns[at].reply.text_ms for turns in conversations)


def _summary(held: Conversations, expected: dict[str, list[int]]) -> None:
    print(
        "\n| | read in all | of these again | last turn, ms | over turn 2 | over qnext | replies as qnext's |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    mine = [turn.reply.text for turn in held["qnext"][0]]
    for name, conversations in held.items():
        replies = [turn.reply for turn in conversations[0]]
        read = sum(reply.read_tokens + reply.ahead_tokens for reply in replies)
        last = _text_ms(conversations, -1)
        same = sum(reply.text == text for reply, text in zip(replies, mine))
        print(
            f"| {name} | {read} | {read - sum(expected['qnext'])} | {last:.0f} | {last / _text_ms(conversations, 1):.2f}× "
            f"| {last / _text_ms(held['qnext'], -1):.1f}× | {same} of {len(mine)} |"
        )
    _own_details(held, expected)


def _own_details(held: Conversations, expected: dict[str, list[int]]) -> None:
    print()
    for name in OWN:
        at_two, last = (_token_ms(held[name], at) for at in (1, -1))
        wrong = _inexact(held[name], expected[name])
        print(
            f"{name}: first token {at_two:.0f} ms at turn 2, {last:.0f} ms at the last, {last / at_two:.2f}× (asked: 1.5×); "
            + (
                "every turn read the new tokens only"
                if not wrong
                else f"turns {wrong} read others than the new ones"
            )
        )
    ahead = [turn.reply for turns in held[READS_AHEAD] for turn in turns[1:]]
    tokens, took_ms = median(r.ahead_tokens for r in ahead), median(r.ahead_ms for r in ahead)
    print(f"{READS_AHEAD}: {tokens:.0f} tokens in {took_ms:.0f} ms between two turns")
    loaded_ms = [turn.reply.load_ms for turns in held[RESTARTED] for turn in turns[1:]]
    print(f"{RESTARTED}: {median(loaded_ms):.0f} ms from a process's start to its request")


def _token_ms(conversations: list[list[Turn]], at: int) -> float:
    return median(turns[at].reply.token_ms or 0.0 for turns in conversations)


def _inexact(conversations: list[list[Turn]], expected: list[int]) -> list[int]:
    """Turns, counted from 1, where some round read other tokens than the new ones."""
    rounds = [[turn.reply.read_tokens for turn in turns] for turns in conversations]
    return sorted({at + 1 for read in rounds for at, n in enumerate(expected) if read[at] != n})


def _all_exact(held: Conversations, expected: dict[str, list[int]]) -> bool:
    return not any(_inexact(held[name], expected[name]) for name in OWN)


def _plain(held: Conversations) -> dict[str, list[list[dict[str, object]]]]:
    def turn(reply: Reply) -> dict[str, object]:
        return asdict(reply)

    return {name: [[turn(t.reply) for t in turns] for turns in rounds] for name, rounds in held.items()}


if __name__ == "__main__":
    main()
