"""A result of a batch as it is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from cli.batch_input import Entry
from cli.record import record
from mlx_qnext.generate.events import Finished


def answer_record(
    entry: Entry, result: Finished, notices: Sequence[str], model: str, *, tools: bool
) -> dict[str, Any]:
    """`id`, what `qnext generate --json` prints, in `notices` what that says beside it, and a digest of what was asked;
    `tool_calls` too where the request offered `tools`."""
    calls = {"tool_calls": list(result.tool_calls)} if tools else {}
    return {
        "id": entry.id,
        **json.loads(record(result, model)),
        "notices": list(notices),
        "asked": entry.digest,
        **calls,
    }


def error_record(entry: Entry, reason: str) -> dict[str, Any]:
    """`id`, null where the line has none; its number, and why it has no answer."""
    return {"id": entry.id, "line": entry.line, "error": reason}
