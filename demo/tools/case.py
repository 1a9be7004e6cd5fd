"""One use of a tool: its signature, a request for it, the call, and what is made of the result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ToolCase:
    """A tool with one example of its use.

    `arguments` answer `request`; `result` is what the tool returns, `answer` what the assistant makes of it, and
    `purpose` names in a few words what the user wants.
    """

    name: str
    description: str
    parameters: dict[str, dict[str, str]]
    arguments: dict[str, Any]
    request: str
    result: dict[str, Any]
    answer: str
    purpose: str
    facts: tuple[str, ...] = field(default=())

    def schema(self) -> dict[str, Any]:
        """Return the signature as chat templates expect it."""
        parameters = {"type": "object", "properties": self.parameters, "required": list(self.parameters)}
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


def text(description: str) -> dict[str, str]:
    """Return the schema of a text parameter."""
    return {"type": "string", "description": description}


def integer(description: str) -> dict[str, str]:
    """Return the schema of a whole-number parameter."""
    return {"type": "integer", "description": description}
