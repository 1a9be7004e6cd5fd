"""Texts to evaluate on are read as they are meant, or refused in a sentence that says where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_qnext.errors import TokenizerError, UsageError
from mlx_qnext.hub import embedded_model
from mlx_qnext.tokenizer import Tokenizer
from quantize.documents import DEFAULT_TEXT, documents_from

WORDS = "The ferry leaves the island at ten past six. " * 40


def joined(documents: list[list[int]]) -> list[int]:
    return [token for document in documents for token in document]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(embedded_model())


class TestWhatIsRead:
    def test_a_text_is_cut_into_windows_that_hold_all_of_it(
        self, tokenizer: Tokenizer, tmp_path: Path
    ) -> None:
        file = tmp_path / "text.txt"
        file.write_text(WORDS)
        documents = documents_from(file, tokenizer, window=64)
        assert [len(d) for d in documents[:-1]] == [64] * (len(documents) - 1)
        assert 1 < len(documents[-1]) <= 64
        assert joined(documents) == tokenizer.encode(WORDS)

    def test_no_more_is_read_than_asked_for(self, tokenizer: Tokenizer, tmp_path: Path) -> None:
        file = tmp_path / "text.txt"
        file.write_text(WORDS)
        assert (
            joined(documents_from(file, tokenizer, window=64, most_tokens=100))
            == tokenizer.encode(WORDS)[:100]
        )

    def test_json_lines_are_texts_and_chats_in_the_models_template(
        self, tokenizer: Tokenizer, tmp_path: Path
    ) -> None:
        messages = [{"role": "user", "content": WORDS}, {"role": "assistant", "content": "Yes."}]
        tools = [{"type": "function", "function": {"name": "clock", "parameters": {}}}]
        lines = [{"text": "<|im_start|>user"}, {"messages": messages}, {"messages": messages, "tools": tools}]
        file = tmp_path / "chats.jsonl"
        file.write_text("\n\n".join(map(json.dumps, lines)) + "\n")
        rendered = [tokenizer.render(messages, each, generation_prompt=False) for each in (None, tools)]
        expected = [tokenizer.encode(text) for text in ("<|im_start|>user", *rendered)]
        assert documents_from(file, tokenizer, window=4096) == expected

    def test_the_text_that_ships_is_long_enough_for_a_mean(self, tokenizer: Tokenizer) -> None:
        documents = documents_from(DEFAULT_TEXT, tokenizer)
        assert sum(map(len, documents)) == len(tokenizer.encode(DEFAULT_TEXT.read_text(encoding="utf-8")))
        assert sum(map(len, documents)) > 1000

    def test_a_character_that_the_limit_cuts_is_no_error(
        self, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "text.txt"
        file.write_text(WORDS + "é", encoding="utf-8")
        monkeypatch.setattr("quantize.documents._MOST_BYTES", len(WORDS) + 1)
        assert joined(documents_from(file, tokenizer)) == tokenizer.encode(WORDS)

    def test_a_line_that_the_limit_cuts_is_left_out(
        self, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        line = json.dumps({"text": WORDS})
        file = tmp_path / "texts.jsonl"
        file.write_text(f"{line}\n{line}\n")
        monkeypatch.setattr("quantize.documents._MOST_BYTES", len(line) + 9)
        assert joined(documents_from(file, tokenizer)) == tokenizer.encode(WORDS)


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("a.txt", b"", "is empty"),
            ("a.txt", b" \n ", "is empty"),
            ("a.jsonl", b"\n", "is empty"),
            ("a.txt", b"ab\xff", r"not UTF-8 \(byte 2\)"),
            ("a.txt", "é".encode()[:1], r"not UTF-8 \(byte 0\)"),
            ("a.txt", b"Two words", "holds [0-9]+ tokens, expected at least 64"),
            ("a.jsonl", b'{"text": "a"}\n{"text"', "line 2 is not JSON"),
            ("a.jsonl", b"[" * 100000, "line 1 is not JSON"),
            ("a.jsonl", b'{"text": "a"}\n"\xff"', "line 2 is not UTF-8"),
            ("a.jsonl", b"[1]", "line 1 holds .* expected a JSON object"),
            ("a.jsonl", b'{"txt": "a"}', 'line 1 holds .* expected {"text"'),
            ("a.jsonl", b'{"text": 1}', "line 1 holds"),
            ("a.jsonl", b'{"text": "a", "messages": [{"role": "user"}]}', "line 1 holds"),
            ("a.jsonl", b'{"messages": []}', "line 1 holds"),
            ("a.jsonl", b'{"messages": ["hello"]}', "line 1 holds"),
            (
                "a.jsonl",
                b'{"messages": [{"role": "user", "content": "a"}], "tools": "clock"}',
                "line 1 holds",
            ),
        ],
    )
    def test_what_cannot_be_meant_is_refused_in_a_sentence(
        self, name: str, content: bytes, said: str, tokenizer: Tokenizer, tmp_path: Path
    ) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=said) as refused:
            documents_from(tmp_path / name, tokenizer)
        assert str(refused.value).startswith(str(tmp_path / name))
        assert len(str(refused.value)) < 400

    def test_a_missing_file_and_a_folder_are_refused(self, tokenizer: Tokenizer, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="does not exist"):
            documents_from(tmp_path / "none.txt", tokenizer)
        with pytest.raises(UsageError, match="cannot be read"):
            documents_from(tmp_path, tokenizer)

    def test_a_template_that_fails_names_the_line(self, tokenizer: Tokenizer, tmp_path: Path) -> None:
        file = tmp_path / "chats.jsonl"
        file.write_text('{"text": "a"}\n{"messages": [{"content": "no role"}]}\n')
        with pytest.raises(TokenizerError, match="line 2: The chat template"):
            documents_from(file, tokenizer)
