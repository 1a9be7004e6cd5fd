"""Chat templates: Jinja text that comes with a checkpoint, written by strangers, so rendered in a sandbox.

What a template finds is what `transformers` gives it (`apply_chat_template`): the same variables, filters,
functions and block rules, so that a checkpoint's template renders to the same characters here. The sandbox keeps
a template away from Python and from the caller's messages; it bounds `range`, and no other use of time or memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from mlx_qnext.errors import TokenizerError

_OPEN_THOUGHT = "<think>"
_CLOSED_THOUGHT = "<think>\n\n</think>\n\n"


class ChatTemplate:
    """One template; it is compiled when first rendered."""

    def __init__(self, source: str) -> None:
        self.source = source

    @cached_property
    def _compiled(self) -> jinja2.Template:
        return _environment().from_string(self.source)

    def render(self, **variables: Any) -> str:
        """The template's text for these variables, which it sees as plain copies.

        Raises:
            TokenizerError: the template is not valid Jinja, refuses or fails on these variables, or tries to leave
                the sandbox; or a variable is not made of JSON's types.
        """
        try:
            return self._compiled.render({name: _plain(value) for name, value in variables.items()})
        except TokenizerError:
            raise
        except TemplateSyntaxError as error:
            raise TokenizerError(
                f"The chat template is not valid Jinja (line {error.lineno}: {_one_line(error)}): replace "
                "the checkpoint's template."
            ) from error
        except _RefusedError as error:
            raise TokenizerError(
                f"The chat template refuses these messages ({_one_line(error)}): change their order or content."
            ) from error
        except SecurityError as error:
            raise TokenizerError(
                f"The chat template tries what a template may not do ({_one_line(error)}): "
                "do not trust this checkpoint."
            ) from error
        # A template is a program: any exception can come out of it.
        except Exception as error:
            raise TokenizerError(
                f"The chat template fails on these messages ({type(error).__name__}: {_one_line(error)}): "
                "check their roles and fields, or replace the checkpoint's template."
            ) from error


def opens_thinking(prompt: str) -> bool:
    """Whether the rendered prompt leaves a thought open, so that the model's first text is thinking."""
    return prompt.rstrip().endswith(_OPEN_THOUGHT)


def skip_thought(prompt: str) -> str:
    """The prompt with its open thought closed and empty, so that the answer comes next; others are unchanged.

    The Thinking models' template opens a thought whatever it is asked. The closed form is the one that
    Qwen3's templates write for `enable_thinking=False`.
    """
    if not opens_thinking(prompt):
        return prompt
    return prompt.rstrip().removesuffix(_OPEN_THOUGHT) + _CLOSED_THOUGHT


class _RefusedError(TemplateError):
    """The template called `raise_exception`."""


class _Names(Namespace):
    """Jinja's `namespace`, without names that stand for Python's internals."""

    def __init__(*args: Any, **names: Any) -> None:  # so that a template can set a name called `self`
        self, *rest = args
        values = dict(*rest, **names)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)


class _GenerationBlock(Extension):
    """`{% generation %}` … `{% endgeneration %}` marks text for training; here it is only a scope."""

    tags = {"generation"}  # noqa: RUF012 (the type that Jinja declares)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _environment() -> ImmutableSandboxedEnvironment:
    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    sandbox.filters["tojson"] = _to_json
    sandbox.globals.update(raise_exception=_refuse, strftime_now=_strftime_now, namespace=_Names)
    return sandbox


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML and sorts keys: the model has been trained on neither.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> str:
    raise _RefusedError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _check_name(name: Any) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace with the name {name!r}")


def _plain(value: Any) -> Any:
    """A copy in JSON's own types: a template must not reach the methods of anything else."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise TokenizerError(
        f"A message holds a value of type {type(value).__name__}: "
        "messages and tools are made of text, numbers, lists and objects."
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
