"""Chats packed into rows of equal length: the training data, made in worker processes.

Batch number n comes from a generator seeded with (seed, n), so the data do not depend on the number of workers.
"""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from demo.chatml import pieces
from demo.conversation import make
from demo.tokenizer import END_OF_TEXT, token_id

_CHATS_AT_ONCE = 128
_OPEN_ROWS = 12
_QUEUED_BATCHES = 40


@dataclass(frozen=True)
class Batch:
    """Rows of tokens [B, T] int16; which of them are learned, uint8; the number of their chat in the row, uint8."""

    tokens: np.ndarray
    learned: np.ndarray
    chat: np.ndarray


Encoded = tuple[list[int], list[bool]]


def encode(tokenizer: Tokenizer, rng: random.Random, count: int) -> Iterator[Encoded]:
    """Yield the tokens of `count` random chats, with whether each is learned."""
    chats = [pieces(make(rng)) for _ in range(count)]
    encodings = iter(
        tokenizer.encode_batch_fast([text for chat in chats for text, _ in chat], add_special_tokens=False)
    )
    for chat in chats:
        ids: list[int] = []
        learned: list[bool] = []
        for _, trained in chat:
            piece = next(encodings).ids
            ids += piece
            learned += [trained] * len(piece)
        yield ids, learned


def pack(tokenizer: Tokenizer, rng: random.Random, rows: int, length: int) -> Batch:
    """Return `rows` rows of `length` tokens; each chat is closed by one end-of-text token.

    A chat goes to the first of a few open rows with room for it; if none has, the fullest row is closed.
    """
    end = token_id(tokenizer, END_OF_TEXT)
    batch = Batch(
        np.full((rows, length), end, np.int16),
        np.zeros((rows, length), np.uint8),
        np.zeros((rows, length), np.uint8),
    )
    used, chats = [0] * rows, [0] * rows
    open_rows, waiting = list(range(min(rows, _OPEN_ROWS))), list(range(_OPEN_ROWS, rows))
    while True:
        for ids, learned in encode(tokenizer, rng, _CHATS_AT_ONCE):
            size = len(ids) + 1
            if size > length:
                continue
            row = next((r for r in open_rows if length - used[r] >= size), None)
            if row is None:
                open_rows.remove(max(open_rows, key=lambda r: used[r]))
                if waiting:
                    open_rows.append(waiting.pop(0))
                if not open_rows:
                    return batch
                row = open_rows[-1]
                if length - used[row] < size:
                    continue
            start = used[row]
            batch.tokens[row, start : start + size - 1] = ids
            batch.learned[row, start : start + size - 1] = learned
            chats[row] += 1
            used[row] += size
            batch.chat[row, start : used[row]] = chats[row]


def _work(
    queue: Queue, tokenizer_file: Path, seed: int, first: int, step: int, rows: int, length: int
) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    number = first
    while True:
        queue.put(pack(tokenizer, random.Random(f"{seed} {number}"), rows, length))
        number += step


def batches(tokenizer_file: Path, seed: int, workers: int, rows: int, length: int) -> Iterator[Batch]:
    """Return an endless iterator over batches, made ahead by `workers` processes that end with this one."""
    context = multiprocessing.get_context("fork")
    queues = [context.Queue(_QUEUED_BATCHES) for _ in range(workers)]
    for index, queue in enumerate(queues):
        arguments = (queue, tokenizer_file, seed, index, workers, rows, length)
        context.Process(target=_work, args=arguments, daemon=True).start()
    return _in_turn(queues)


def _in_turn(queues: list[Queue]) -> Iterator[Batch]:
    while True:
        for queue in queues:
            yield queue.get()
