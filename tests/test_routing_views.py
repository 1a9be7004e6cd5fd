"""Which experts a prompt visits, as it is drawn: shades on a terminal, numbers elsewhere, and a picture."""

from __future__ import annotations

import io
import json
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from test_views import check, console

from cli.main import main
from cli.views.routing import RoutingMap, coverage, layer_label, routing_table
from cli.views.routing_svg import routing_svg
from mlx_qnext.errors import ContextLengthError, OutputError, UnsupportedModelError, UsageError
from mlx_qnext.generate import routing as routing_module
from mlx_qnext.generate.routing import Routing

EXPERTS = 64
# The first layer's visits fall off with the expert's number, the second's are all alike, the head visits one expert.
FALLING = tuple(480 // (expert + 1) if expert < 24 else 0 for expert in range(EXPERTS))
ROUTING = Routing(
    ("model.layers.0.mlp", "model.layers.11.mlp", "mtp.layers.0.mlp"),
    (FALLING, (10,) * EXPERTS, (0,) * 63 + (640,)),
)
TITLE = "Experts that the 64 tokens of prompt.txt visit in thinking-4bit"
SVG = "{http://www.w3.org/2000/svg}"


def drawn(routing: Routing, width: int, *, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    screen = Console(
        file=file, width=width, force_terminal=True, no_color=True, markup=False, highlight=False
    )
    screen.print(RoutingMap(routing, TITLE), soft_wrap=True)
    file.seek(0)
    return file.read()


class TestCounts:
    def test_used_counts_the_experts_that_were_visited(self) -> None:
        assert ROUTING.used == (24, 64, 1)

    def test_covering_is_the_mean_of_the_layers_shares(self) -> None:
        two = Routing(("a", "b"), ((5, 3, 1, 1), (1, 1, 1, 1)))
        assert two.covering(0.5) == (1 / 4 + 2 / 4) / 2
        assert two.covering(0.9) == (3 / 4 + 4 / 4) / 2

    def test_a_layer_that_nothing_visited_counts_for_nothing(self) -> None:
        assert Routing(("a", "b"), ((0, 0), (3, 0))).covering(0.5) == 1 / 2
        assert Routing(("a",), ((0, 0),)).covering(0.5) == 0.0


class TestMap:
    @pytest.mark.parametrize("width", [24, 40, 80, 200])
    def test_layers_are_rows_and_experts_are_binned_to_the_width(self, width: int) -> None:
        text = drawn(ROUTING, width)
        check(f"routing-{width}", text)
        assert max(map(cell_len, text.splitlines())) <= width
        assert "\x1b" not in text

    def test_where_the_encoding_has_no_blocks_the_shades_are_ascii(self) -> None:
        text = drawn(ROUTING, 80, encoding="ascii")
        check("routing-ascii", text)
        assert text.isascii()

    @given(
        st.integers(1, 40).flatmap(
            lambda experts: st.lists(
                st.lists(st.integers(0, 99), min_size=experts, max_size=experts), min_size=1, max_size=3
            )
        ),
        st.integers(1, 60),
    )
    def test_any_counts_fit_any_width(self, counts: list[list[int]], width: int) -> None:
        paths = tuple(f"model.layers.{layer}.mlp" for layer in range(len(counts)))
        routing = Routing(paths, tuple(map(tuple, counts)))
        screen, file = console(width, color=False)
        screen.print(RoutingMap(routing, ""))
        rows = file.getvalue().splitlines()[1 : 2 + len(counts)]
        assert len({cell_len(row) for row in rows}) == 1
        assert cell_len(rows[0]) <= max(width, len("layer   used") + 1)
        for row, layer in zip(rows[1:], counts):
            assert (row[6:-6].strip(" ") == "") == (not any(layer))

    def test_shades_stand_for_multiples_of_an_even_share(self) -> None:
        row = drawn(Routing(("model.layers.0.mlp",), ((0, 3, 4, 8, 16, 1, 0, 0),)), 80).splitlines()[2]
        assert row == "    0  ░▒▓█░       5"

    def test_the_heads_layers_are_told_from_the_models(self) -> None:
        assert [layer_label(path) for path in (*ROUTING.paths, "mlp")] == ["0", "11", "mtp 0", "mlp"]


class TestTable:
    def test_every_number_can_be_read_back(self) -> None:
        head, *rows = [line.split("\t") for line in routing_table(ROUTING).splitlines()]
        assert head == ["layer", "used", *map(str, range(EXPERTS))]
        assert tuple(row[0] for row in rows) == ROUTING.paths
        assert tuple(int(row[1]) for row in rows) == ROUTING.used
        assert tuple(tuple(map(int, row[2:])) for row in rows) == ROUTING.counts


class TestPicture:
    def test_it_has_title_axes_and_legend(self) -> None:
        root = ElementTree.fromstring(routing_svg(ROUTING, TITLE))
        texts = [text.text for text in root.iter(f"{SVG}text")]
        assert root.findtext(f"{SVG}title") == TITLE
        assert {TITLE, coverage(ROUTING), "expert", "layer", "0", "11", "mtp 0", "56", "none"} <= set(texts)

    def test_it_needs_nothing_beside_it(self) -> None:
        text = routing_svg(ROUTING, TITLE)
        assert text.count("http") == text.count('xmlns="http://www.w3.org/2000/svg"') == 1
        assert not {"href", "url(", "<script", "<style", "<image"} & set(text.split())

    def test_each_visited_expert_is_in_one_coloured_cell_and_no_other_is(self) -> None:
        root = ElementTree.fromstring(routing_svg(ROUTING, TITLE))
        group = root.find(f"{SVG}g")
        assert group is not None
        _, *coloured = (path.get("d", "") for path in group)
        cells = [cell for path in coloured for cell in _cells(path)]
        visited = [(x, y) for y, row in enumerate(ROUTING.counts) for x, visits in enumerate(row) if visits]
        assert sorted(cells) == sorted(visited)

    @pytest.mark.parametrize("name", ["<&>\"'", "\x00\x1b[31m", "\udcff.txt", "\ufffe\uffff", "x" * 900])
    def test_whatever_a_file_is_called_it_stays_sound(self, name: str) -> None:
        text = routing_svg(ROUTING, f"Experts that {name} visits").encode()
        title = ElementTree.fromstring(text).findtext(f"{SVG}title", "")
        assert title.startswith("Experts that ")
        assert "<&>\"'" not in name or name in title


def _cells(path: str) -> list[tuple[int, int]]:
    cells = []
    for run in path.split("M")[1:]:
        x, rest = run.split(" ")
        y, length = rest.partition("v")[0].split("h")
        cells += [(column, int(y)) for column in range(int(x), int(x) + int(length))]
    return cells


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def qnext(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The program in this process, with the embedded model and this routing for whatever is asked."""
    monkeypatch.setattr(routing_module, "routing_of", lambda engine, tokens: ROUTING, raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qnext", "inspect", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        assert isinstance(left.value.code, int)
        return left.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    file = tmp_path / "prompt.txt"
    file.write_text("What is 47 + 85?", encoding="utf-8")
    return file


class TestCommand:
    def test_off_a_terminal_it_prints_the_table_alone(self, qnext: Run, prompt: Path) -> None:
        assert qnext("--routing", str(prompt)) == (0, routing_table(ROUTING), "")

    def test_on_a_terminal_it_prints_the_map(
        self, qnext: Run, prompt: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
        monkeypatch.setenv("COLUMNS", "80")
        code, out, _ = qnext("--routing", str(prompt))
        assert code == 0
        assert "tokens of prompt.txt visit in demo" in out
        assert "mtp 0" in out
        assert "\t" not in out

    def test_stdin_is_a_prompt_too(self, qnext: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"What is 47 + 85?\n")))
        assert qnext("--routing", "-")[:2] == (0, routing_table(ROUTING))

    def test_the_prompt_is_read_as_a_question_in_the_chat_template(
        self, qnext: Run, prompt: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []

        def routing_of(engine, tokens: Sequence[int]) -> Routing:
            asked.append(engine.tokenizer.decode(tokens))
            return ROUTING

        monkeypatch.setattr(routing_module, "routing_of", routing_of)
        said = json.loads(qnext("--routing", str(prompt), "--json")[1])["routing"]
        assert "user\nWhat is 47 + 85?" in asked[0]
        assert said["tokens"] > 8
        assert said["covering_half"] == round(ROUTING.covering(0.5), 4)
        assert [(layer["path"], layer["used"], tuple(layer["visits"])) for layer in said["layers"]] == list(
            zip(ROUTING.paths, ROUTING.used, ROUTING.counts)
        )

    def test_the_picture_is_written_whole_and_beside_nothing(self, qnext: Run, prompt: Path) -> None:
        svg = prompt.with_name("map.svg")
        svg.write_text("an older one", encoding="utf-8")
        assert qnext("--routing", str(prompt), "--svg", str(svg))[0] == 0
        ElementTree.parse(svg)
        assert sorted(file.name for file in prompt.parent.iterdir()) == ["map.svg", "prompt.txt"]

    def test_a_picture_that_fails_leaves_the_older_one(
        self, qnext: Run, prompt: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        svg = prompt.with_name("map.svg")
        svg.write_text("an older one", encoding="utf-8")
        monkeypatch.setattr(Path, "write_text", _disk_is_full)
        code, out, err = qnext("--routing", str(prompt), "--svg", str(svg))
        assert (code, out) == (OutputError.exit_code, "")
        assert "disk is full" in err
        assert svg.read_bytes() == b"an older one"

    @pytest.mark.parametrize(
        ("content", "phrase"),
        [(None, "does not exist"), (b" \n", "holds no prompt"), (b"caf\xe9", "not UTF-8 (byte 3)")],
    )
    def test_a_file_that_holds_no_prompt_is_one_line(
        self, qnext: Run, tmp_path: Path, content: bytes | None, phrase: str
    ) -> None:
        file = tmp_path / "prompt.txt"
        if content is not None:
            file.write_bytes(content)
        _is_one_line(qnext("--routing", str(file)), UsageError.exit_code, phrase)
        _is_one_line(qnext("--routing", str(tmp_path)), UsageError.exit_code, "Is a directory")

    def test_a_picture_that_cannot_be_written_is_told_before_the_model_is_loaded(
        self, qnext: Run, prompt: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("cli.routing.load_engine", lambda *arguments: pytest.fail("loaded"))
        nowhere = prompt.parent / "missing" / "map.svg"
        _is_one_line(
            qnext("--routing", str(prompt), "--svg", str(nowhere)), OutputError.exit_code, str(nowhere)
        )
        _is_one_line(
            qnext("--routing", str(prompt), "--svg", str(prompt.parent)), UsageError.exit_code, "is a folder"
        )

    def test_options_that_say_nothing_together_are_refused(self, qnext: Run, prompt: Path) -> None:
        _is_one_line(qnext("--svg", "map.svg"), UsageError.exit_code, "--routing FILE")
        _is_one_line(qnext("--verify", "--routing", str(prompt)), UsageError.exit_code, "give one of them")

    def test_more_than_the_context_holds_is_refused(
        self, qnext: Run, prompt: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = SimpleNamespace(
            tokenizer=SimpleNamespace(prompt=lambda messages: SimpleNamespace(token_ids=(1,) * 12)),
            plan=SimpleNamespace(context_tokens=8),
        )
        monkeypatch.setattr("cli.routing.load_engine", lambda *arguments: engine)
        _is_one_line(
            qnext("--routing", str(prompt)), ContextLengthError.exit_code, "has 12 tokens", "at least 4"
        )

    def test_a_model_without_experts_is_told(
        self, qnext: Run, prompt: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(routing_module, "routing_of", lambda engine, tokens: Routing((), ()))
        _is_one_line(
            qnext("--routing", str(prompt)), UnsupportedModelError.exit_code, "no layer with experts"
        )


def _disk_is_full(*arguments: object, **more: object) -> int:
    raise OSError(28, "No space left on device")


def _is_one_line(result: tuple[int, str, str], code: int, *phrases: str) -> None:
    assert result[:2] == (code, "")
    assert result[2].count("\n") == 1
    for phrase in phrases:
        assert phrase in result[2]
