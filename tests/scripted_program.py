"""The program with an engine that answers every question with a file: python scripted_program.py FILE ARGUMENTS…

Thoughts stand between form feeds. Where the file is a pipe, an answer lasts until its writer closes it.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from fakes.engine import answer, finished, thinking
from screens import cut

import cli.chat
from cli.main import main
from mlx_qnext.generate.events import Event
from mlx_qnext.generate.request import GenerationConfig

_SIZES = (7, 3, 11)


class Engine:
    """Its session too: it remembers nothing."""

    plan = SimpleNamespace(context_tokens=8192)
    tokens = ()

    def __init__(self, path: str) -> None:
        self._path, self._cancelled = path, False

    def session(self) -> Engine:
        return self

    def read_ahead(self, *_: object, **__: object) -> None:
        pass

    def cancel(self) -> None:
        self._cancelled = True

    def generate(self, messages: Sequence[Any], config: GenerationConfig) -> Iterator[Event]:
        """Groups of one, two and three tokens in turns."""
        self._cancelled, kinds, said = False, (answer, thinking), ""
        for number, piece in enumerate(self._pieces()):
            if self._cancelled:
                break
            for part in filter(None, re.split("(\f)", piece)):
                if part == "\f":
                    kinds = kinds[::-1]
                    continue
                said += part
                yield kinds[0](part, number % 3 + 1)
        yield finished(said, reason="cancelled" if self._cancelled else "stop")

    def _pieces(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")()
        file = os.open(self._path, os.O_RDONLY)
        try:
            while read := os.read(file, 4096):
                yield from filter(None, cut(decoder.decode(read), _SIZES))
        finally:
            os.close(file)


if __name__ == "__main__":
    engine = Engine(sys.argv.pop(1))
    cli.chat.load_engine = lambda *_: engine  # pyright: ignore[reportAttributeAccessIssue]
    main()
