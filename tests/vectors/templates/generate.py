"""Writes expected.json: what transformers' own `apply_chat_template` makes of every template and conversation here.

Run it, where transformers is installed, after changing a template or conversations.json:

    python tests/vectors/templates/generate.py

The tests read its output and need no transformers.
"""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
import transformers

FOLDER = Path(__file__).parent


def main() -> None:
    grid = json.loads((FOLDER / "conversations.json").read_text(encoding="utf-8"))
    vocabulary = tokenizers.Tokenizer(tokenizers.models.WordLevel({}))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=vocabulary, **grid["named_tokens"])
    expected = {
        template.stem: {
            name: [
                render(tokenizer, template, messages, request, grid["tools"]) for request in grid["requests"]
            ]
            for name, messages in grid["conversations"].items()
        }
        for template in sorted(FOLDER.glob("*.jinja"))
    }
    content = {"transformers": transformers.__version__, "expected": expected}
    text = json.dumps(content, ensure_ascii=False, indent=1)
    (FOLDER / "expected.json").write_text(text + "\n", encoding="utf-8")


def render(tokenizer, template: Path, messages: list, request: dict, tools: list) -> str:
    thinking = {} if request["thinking"] is None else {"enable_thinking": request["thinking"]}
    return tokenizer.apply_chat_template(
        messages,
        chat_template=template.read_text(encoding="utf-8"),
        tools=tools if request["tools"] else None,
        add_generation_prompt=request["generation_prompt"],
        tokenize=False,
        **thinking,
    )


if __name__ == "__main__":
    main()
