"""A checkpoint's tokenizer: text ↔ tokens, and messages → prompt.

Reads `tokenizer.json` with the `tokenizers` library, the special tokens' names from `tokenizer_config.json`, and
the chat template from wherever the checkpoint keeps it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import Any

import tokenizers

from mlx_qnext.chat_template import ChatTemplate, opens_thinking, skip_thought
from mlx_qnext.detokenizer import Detokenizer, detokenizer_for
from mlx_qnext.errors import TokenizerError
from mlx_qnext.json_fields import shown

_NAMED_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
# Clients spell the thought they send back in either way; templates read the first.
_THOUGHT_FIELDS = ("reasoning_content", "reasoning")
# Two questions that share no beginning.
_PROBES = ("a", "b")

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Prompt:
    """A conversation as the model reads it.

    Attributes:
        text: the rendered template, the generation prompt included.
        token_ids: its tokens.
        system_tokens: how many leading tokens depend on the system message and the tools alone; 0 where that cannot be told.
        lasting_tokens: how many leading tokens the next turn's prompt begins with again, whatever the answer: all, but for a
            thought that is opened here and taken out later.
        opens_thinking: the prompt ends inside a thought.
    """

    text: str
    token_ids: tuple[int, ...]
    system_tokens: int
    lasting_tokens: int
    opens_thinking: bool


class Tokenizer:
    """Text ↔ tokens of one checkpoint; immutable, and safe to share between sessions.

    Chat templates put the user's text inline: where it spells a special token, it becomes that token.

    Attributes:
        eos_ids: any of these ends an answer.
        vocab_size: one more than the largest token id.
        fingerprint: of vocabulary and template: with another one, the same messages may be other tokens.
    """

    def __init__(
        self,
        vocabulary: tokenizers.Tokenizer,
        template: ChatTemplate | None,
        named_tokens: Mapping[str, str],
        eos_ids: frozenset[int],
        fingerprint: str = "",
    ) -> None:
        self._vocabulary = vocabulary
        self._template = template
        self._named_tokens = named_tokens
        self.eos_ids = eos_ids
        self.fingerprint = fingerprint
        self.vocab_size = _vocab_size(vocabulary)
        self._added_ids = frozenset(vocabulary.get_added_tokens_decoder())

    @classmethod
    def from_folder(
        cls, folder: Path, eos_ids: Iterable[int] = (), vocab_size: int | None = None
    ) -> Tokenizer:
        """Reads the tokenizer in `folder`; `eos_ids` are added to its own.

        Args:
            folder: holds `tokenizer.json`, and usually `tokenizer_config.json` and `chat_template.jinja`.
            eos_ids: what `generation_config.json` or `config.json` say.
            vocab_size: rows of the model's embedding.

        Raises:
            TokenizerError: `tokenizer.json` is missing, a file is damaged, or a token has no row in the embedding.
        """
        vocabulary = _read_vocabulary(folder / "tokenizer.json")
        settings = _read_settings(folder / "tokenizer_config.json")
        named_tokens = _named_tokens(settings)
        template = _find_template(folder, settings)
        tokenizer = cls(
            vocabulary,
            template,
            named_tokens,
            frozenset(eos_ids) | _named_eos(vocabulary, named_tokens, folder),
            _fingerprint(folder / "tokenizer.json", template, named_tokens),
        )
        if vocab_size is not None and tokenizer.vocab_size > vocab_size:
            raise TokenizerError(
                f"{folder / 'tokenizer.json'} has {tokenizer.vocab_size} tokens, the model only {vocab_size}: "
                "use the tokenizer that belongs to this checkpoint."
            )
        return tokenizer

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`; special tokens spelled in it are recognised, none are added.

        Raises:
            TokenizerError: `text` is not valid Unicode.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"The text is not valid Unicode at character {error.start}: expected UTF-8 input."
            ) from error
        return self._vocabulary.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of these tokens, without special ones; bytes that are not UTF-8 become U+FFFD."""
        return self._vocabulary.decode(list(ids), skip_special_tokens=True)

    def token_id(self, content: str) -> int | None:
        """The id of the token spelled exactly so in the vocabulary, if there is one."""
        return self._vocabulary.token_to_id(content)

    def detokenizer(self) -> Detokenizer:
        """A fresh incremental decoder for one answer."""
        return detokenizer_for(self._vocabulary)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool | None = None,
        generation_prompt: bool = True,
    ) -> str:
        """The conversation in the checkpoint's chat template.

        Args:
            messages: each with `role` and `content`, and optionally `reasoning_content` (or `reasoning`) and
                `tool_calls`; a field that is `None` counts as absent.
            tools: JSON schemas of functions, as in OpenAI's `tools`.
            thinking: the template's `enable_thinking`; `None` leaves it undefined. `False` also closes the
                thought that a template opens regardless.
            generation_prompt: whether the text ends where the assistant is to go on.

        Raises:
            TokenizerError: no template, or it fails on these messages.
        """
        if self._template is None:
            raise TokenizerError(
                "The checkpoint has no chat template: expected chat_template.jinja or a chat_template in "
                "tokenizer_config.json; use a chat model."
            )
        variables = {} if thinking is None else {"enable_thinking": thinking}
        text = self._template.render(
            messages=[_as_templates_read(message) for message in messages],
            tools=tools,
            documents=None,
            add_generation_prompt=generation_prompt,
            **self._named_tokens,
            **variables,
        )
        return skip_thought(text) if generation_prompt and thinking is False else text

    def prompt(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool | None = None,
    ) -> Prompt:
        """The conversation in tokens, up to where the assistant goes on; arguments and errors as in `render`."""
        text = self.render(messages, tools, thinking)
        token_ids = tuple(self.encode(text))
        return Prompt(
            text=text,
            token_ids=token_ids,
            system_tokens=self._system_tokens(token_ids, messages, tools, thinking),
            lasting_tokens=self._lasting_tokens(token_ids, messages, tools, thinking),
            opens_thinking=opens_thinking(text),
        )

    def common_start(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool | None = None,
    ) -> tuple[int, ...]:
        """The tokens that every prompt begins with that goes on from these messages with a question of the user's.

        Earlier thoughts are in it only where the template keeps them. It ends before an added token, which no text melts into.

        Raises:
            TokenizerError: as in `render`.
        """
        followed = [[*messages, {"role": "user", "content": probe}] for probe in _PROBES]
        one, other = (self.encode(self.render(m, tools, thinking, generation_prompt=False)) for m in followed)
        shared = _shared_length(one, other)
        while shared and (shared == len(one) or one[shared] not in self._added_ids):
            shared -= 1
        return tuple(one[:shared])

    def _lasting_tokens(
        self,
        token_ids: Sequence[int],
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        thinking: bool | None,
    ) -> int:
        probe = _PROBES[0]
        answered = [{"role": "assistant", "content": probe}, {"role": "user", "content": probe}]
        # A template may refuse an answer here; then the messages themselves last.
        try:
            text = self.render([*messages, *answered], tools, thinking, generation_prompt=False)
        except TokenizerError:
            text = self.render(messages, tools, thinking, generation_prompt=False)
        return _shared_length(token_ids, self.encode(text))

    def _system_tokens(
        self,
        token_ids: Sequence[int],
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        thinking: bool | None,
    ) -> int:
        leading = list(takewhile(lambda message: message.get("role") == "system", messages))
        if not leading and not tools:
            return 0
        # A template may refuse such a conversation, and be right.
        try:
            return _shared_length(token_ids, self.common_start(leading, tools, thinking))
        except TokenizerError:
            return 0


def _read_vocabulary(file: Path) -> tokenizers.Tokenizer:
    if not file.is_file():
        raise TokenizerError(f"{file} is missing: download the checkpoint's tokenizer files too.")
    try:
        vocabulary = tokenizers.Tokenizer.from_file(str(file))
    except (KeyboardInterrupt, SystemExit):
        raise
    # The library raises bare `Exception`s, and what its Rust code panics with is not even one of those.
    except BaseException as error:
        raise TokenizerError(f"{file} is not a tokenizer ({error}): download it again.") from error
    # Training settings that some checkpoints keep: a prompt must never be cut or filled.
    vocabulary.no_truncation()
    vocabulary.no_padding()
    return vocabulary


def _read_settings(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{file} is not JSON ({error}): download it again.") from error
    if not isinstance(settings, dict):
        raise TokenizerError(
            f"{file} holds a {type(settings).__name__}, expected an object: download it again."
        )
    return settings


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{file} is not UTF-8 text (byte {error.start}): download it again.") from error


def _fingerprint(vocabulary: Path, template: ChatTemplate | None, named_tokens: Mapping[str, str]) -> str:
    source = None if template is None else template.source
    digest = sha256(json.dumps([source, named_tokens], sort_keys=True).encode())
    digest.update(vocabulary.read_bytes())
    return digest.hexdigest()


def _named_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """`eos_token` and its like; each is written as text or as `{"content": text}`, or is null."""
    entries = {name: settings.get(name) for name in _NAMED_TOKENS}
    contents = {name: e.get("content") if isinstance(e, dict) else e for name, e in entries.items()}
    return {name: content for name, content in contents.items() if isinstance(content, str)}


def _named_eos(
    vocabulary: tokenizers.Tokenizer, named_tokens: Mapping[str, str], folder: Path
) -> frozenset[int]:
    name = named_tokens.get("eos_token")
    if name is None:
        return frozenset()
    token = vocabulary.token_to_id(name)
    if token is None:
        raise TokenizerError(
            f"{folder / 'tokenizer_config.json'} ends answers with {shown(name)}, a token that tokenizer.json does not "
            "hold: download both files again."
        )
    return frozenset([token])


def _find_template(folder: Path, settings: Mapping[str, Any]) -> ChatTemplate | None:
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return ChatTemplate(_read_text(jinja))
    source = _read_settings(folder / "chat_template.json").get("chat_template", settings.get("chat_template"))
    if isinstance(source, list):
        named = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
        source = named.get("default")
    return ChatTemplate(source) if isinstance(source, str) else None


def _as_templates_read(message: Message) -> dict[str, Any]:
    """The message without its `None` fields, which templates would write as "None", and its thought in one field."""
    fields = {name: value for name, value in message.items() if value is not None}
    thought = next((fields[name] for name in _THOUGHT_FIELDS if name in fields), None)
    return fields if thought is None else {**fields, "reasoning_content": thought}


def _vocab_size(vocabulary: tokenizers.Tokenizer) -> int:
    return max(vocabulary.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def _shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    differs = (at for at, (left, right) in enumerate(zip(a, b)) if left != right)
    return next(differs, min(len(a), len(b)))
