"""The conversation where every turn is answered by a new process, which takes the session from the disk and leaves it there.

python benchmarks/restarted.py FOLDER LIMIT STARTED < messages        is such a process; it prints its reply as JSON
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from time import time

from dialogue import Answerer, Message, Reply
from own_answers import reply

import mlx_qnext
from mlx_qnext.generate.saved import identity_of, resume_session, save_session
from mlx_qnext.sessions.library import SessionLibrary

NAME = "conversation"


def restarting_answerer(folder: Path, limit: int) -> Answerer:
    """Answers each request with a process of its own, whose sessions lie in `folder`."""

    def answer(messages: Sequence[Message]) -> Reply:
        command = [sys.executable, __file__, str(folder), str(limit), repr(time())]
        done = subprocess.run(
            command, input=json.dumps(list(messages)), stdout=subprocess.PIPE, text=True, check=True
        )
        return Reply(**json.loads(done.stdout))

    return answer


def main() -> None:
    folder, limit, started = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    messages = json.load(sys.stdin)
    engine = mlx_qnext.load("demo")
    library, identity = SessionLibrary(folder), identity_of(engine)
    first = library.latest() is None
    with library.create(NAME) if first else library.open(NAME) as opened:
        session = engine.session() if first else resume_session(opened, engine, identity)
        answered = reply(session, messages, limit, None, load_ms=(time() - started) * 1e3)
        save_session(opened, session, identity, [*messages, answered.message()], {})
    print(json.dumps(asdict(answered)))


if __name__ == "__main__":
    main()
