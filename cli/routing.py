"""`qnext inspect --routing`: from a prompt in a file to the experts that it visits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import typer

from cli import terminal
from cli.loading import load_engine
from cli.options import Room
from cli.piped import piped_text
from cli.views.routing import RoutingMap, routing_table
from cli.views.routing_svg import routing_svg
from mlx_qnext.disk import replacing, writing
from mlx_qnext.errors import ContextLengthError, UnsupportedModelError, UsageError

if TYPE_CHECKING:
    from mlx_qnext import Engine
    from mlx_qnext.generate.routing import Routing

_STDIN = "-"


@dataclass(frozen=True)
class Visits:
    """The experts that one prompt visits.

    Attributes:
        title: of which prompt and model, for people.
        tokens: of the prompt in the model's chat template.
    """

    title: str
    tokens: int
    routing: Routing

    def facts(self) -> dict[str, Any]:
        """For `--json`: `tokens`, `covering_half` and `covering_90_percent` as shares of a layer's experts, and by layer the
        module, the number of experts `used`, and every expert's visits."""
        routing = self.routing
        rows = zip(routing.paths, routing.used, routing.counts)
        return {
            "tokens": self.tokens,
            "covering_half": round(routing.covering(0.5), 4),
            "covering_90_percent": round(routing.covering(0.9), 4),
            "layers": [{"path": path, "used": used, "visits": visits} for path, used, visits in rows],
        }

    def show(self) -> None:
        """On a terminal a map, elsewhere a table of tab-separated numbers."""
        out = terminal.out()
        if out.is_terminal:
            out.print(RoutingMap(self.routing, self.title))
        else:
            typer.echo(routing_table(self.routing), nl=False)


def visits_of(model: str, prompt: str, svg: Path | None, room: Room) -> Visits:
    """What the prompt in a file visits in the model, which is loaded for it; drawn in `svg` too, where that is named.

    Args:
        prompt: a text file, or `-` for stdin: what a user would say.

    Raises:
        UsageError: no such file, or one that holds no text. ContextLengthError: more text than the model's context holds.
        OutputError: the picture cannot be written. QnextError: as `mlx_qnext.load`.
    """
    text = _prompt_in(prompt)
    if svg is not None:
        _refuse_unwritable(svg)
    engine = load_engine(model, terminal.err(), room)
    visits = _visits(engine, text, model, "stdin" if prompt == _STDIN else Path(prompt).name)
    if svg is not None:
        with writing(svg), replacing(svg) as fresh:
            fresh.write_text(routing_svg(visits.routing, visits.title), encoding="utf-8")
    return visits


def _visits(engine: Engine, text: str, model: str, source: str) -> Visits:
    from mlx_qnext.generate.routing import routing_of

    tokens = engine.tokenizer.prompt([{"role": "user", "content": text}]).token_ids
    room = engine.plan.context_tokens
    if len(tokens) > room:
        raise ContextLengthError(
            f"The prompt has {len(tokens)} tokens and the context holds {room}: "
            f"shorten the prompt by at least {len(tokens) - room}, or start with a longer --context."
        )
    routing = routing_of(engine, tokens)
    if not routing.paths:
        raise UnsupportedModelError(f"{model} has no layer with experts, so nothing is routed in it.")
    title = terminal.visible(f"Experts that the {len(tokens)} tokens of {source} visit in {model}")
    return Visits(title, len(tokens), routing)


def _prompt_in(file: str) -> str:
    text = piped_text() if file == _STDIN else _text_of(Path(file))
    if not text.strip():
        what = "stdin" if file == _STDIN else file
        raise UsageError(f"{what} holds no prompt: write what the model should read.")
    return text


def _text_of(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"{file} does not exist: name a text file that holds a prompt.") from None
    except OSError as error:
        raise UsageError(
            f"{file} cannot be read ({error.strerror}): name a text file that holds a prompt."
        ) from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{file} is not UTF-8 (byte {error.start}): convert it, for example with iconv."
        ) from None


def _refuse_unwritable(svg: Path) -> None:
    """Before the model is loaded, which can take minutes."""
    if svg.is_dir():
        raise UsageError(f"{svg} is a folder: name the file to draw in.")
    with writing(svg), TemporaryFile(dir=svg.parent):
        pass
