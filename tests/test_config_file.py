"""Defaults in a file: read strictly, edited without harm, and behind what the command line and the environment say."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer.main
from hypothesis import given
from hypothesis import settings as trying
from hypothesis import strategies as st

from cli.config_file import ConfigFile, write_setting
from cli.config_settings import settings
from cli.main import app, main
from cli.options import Room
from mlx_qnext.errors import OutputError, UsageError

COMMENTED = """\
# Mine.
temp = 0.6  # calm

system = \"\"\"
Be brief. # no comment
\"\"\"
stop = [
  "a",  # first
  "b",
]
"""


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "settings" / "config.toml"
    path.parent.mkdir()
    monkeypatch.setenv("QNEXT_CONFIG", str(path))
    monkeypatch.delenv("QNEXT_MODEL", raising=False)
    return path


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def qnext(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The program in this process: its exit code, and what it printed on stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qnext", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0), *capsys.readouterr()

    return run


def reads(text: str, file: Path) -> dict[str, Any]:
    file.write_text(text, encoding="utf-8")
    return dict(ConfigFile.read().values)


class TestReading:
    def test_no_file_sets_nothing(self) -> None:
        assert ConfigFile.read().values == {}

    def test_values_come_as_commands_take_them_with_the_lines_that_set_them(self, file: Path) -> None:
        file.write_text(COMMENTED + "draft = 2\nmodel = 'demo'\nno-think = true\n", encoding="utf-8")
        found = ConfigFile.read()
        assert found.values == {
            "temp": 0.6,
            "system": "Be brief. # no comment\n",
            "stop": ["a", "b"],
            "draft": "2",
            "model": "demo",
            "no-think": True,
        }
        assert found.lines == {"temp": 2, "system": 4, "stop": 7, "draft": 11, "model": 12, "no-think": 13}

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("\ntpo-p = 0.9", "line 2: 'tpo-p' is no setting: did you mean top-p?"),
            ("[chat]\ntemp = 1", "line 1: 'chat' is a table, and settings are in none"),
            ("temp = 'hot'", "line 1: temp is 'hot', expected a number."),
            ("temp = true", "line 1: temp is True, expected a number."),
            ("temp = -1", "line 1: temperature is -1, expected a number in"),
            ("seed = 1.5", "line 1: seed is 1.5, expected a whole number."),
            ("no-think = 'yes'", "line 1: no-think is 'yes', expected true or false."),
            ("thinking = 'maybe'", "line 1: thinking is 'maybe', expected show or collapse or hide."),
            ("stop = 'x'", "line 1: stop is 'x', expected a list of texts."),
            ("kv-bits = 5", "line 1: --kv-bits is 5, expected 16, 8 or 4."),
            ("context = 'long'", "line 1: --context is 'long', expected auto"),
            ("draft = 9", "line 1: --draft is '9', expected auto or a number from 0 to 4."),
            ("temp = \n", "is not TOML (Invalid value (at line 1"),
            ("temp = 1\ntemp = 2", "is not TOML (Cannot overwrite a value"),
        ],
    )
    def test_what_cannot_be_meant_is_refused_with_its_file_and_line(
        self, text: str, said: str, file: Path
    ) -> None:
        with pytest.raises(UsageError) as refused:
            reads(text, file)
        assert str(refused.value).startswith(str(file))
        assert said in str(refused.value)

    def test_a_file_that_is_not_text_and_one_that_cannot_be_read_are_refused(self, file: Path) -> None:
        file.write_bytes(b"temp = \xff")
        with pytest.raises(UsageError, match=r"not UTF-8 \(byte 7\)"):
            ConfigFile.read()
        file.unlink()
        file.mkdir()
        with pytest.raises(UsageError, match="cannot be read"):
            ConfigFile.read()

    def test_a_pipe_is_not_waited_for_and_a_file_of_nothing_is_not_replaced(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        os.mkfifo(file)
        with pytest.raises(UsageError, match="cannot be read, because it is no file"):
            ConfigFile.read()
        monkeypatch.setenv("QNEXT_CONFIG", os.devnull)
        assert ConfigFile.read().values == {}
        with pytest.raises(OutputError, match="keeps nothing"):
            write_setting("seed", 1)


class TestWriting:
    def test_a_table_keeps_its_lines_and_goes_with_them(self, file: Path) -> None:
        table = "[chat]\ntemp = 1\nstop = [\n  'a',\n]\n# end\n"
        file.write_text(f"seed = 1\n{table}[chat.more]\nx = 1\n[[other]]\n[[other]]", encoding="utf-8")
        write_setting("top-k", 20)
        write_setting("seed", 2)
        assert file.read_text(encoding="utf-8").startswith(f"seed = 2\ntop-k = 20\n{table}")
        write_setting("chat", None)
        write_setting("other", None)
        assert file.read_text(encoding="utf-8") == "seed = 2\ntop-k = 20\n"
        assert ConfigFile.read().values == {"seed": 2, "top-k": 20}

    def test_comments_and_all_other_lines_survive(self, file: Path) -> None:
        file.write_text(COMMENTED, encoding="utf-8")
        write_setting("temp", 0.7)
        write_setting("top-k", 20)
        assert file.read_text(encoding="utf-8") == COMMENTED.replace("0.6", "0.7") + "top-k = 20\n"
        write_setting("stop", ["x"])
        write_setting("temp", None)
        assert file.read_text(encoding="utf-8") == (
            '# Mine.\n\nsystem = """\nBe brief. # no comment\n"""\nstop = ["x"]\ntop-k = 20\n'
        )

    def test_a_last_line_without_an_end_is_not_run_into(self, file: Path) -> None:
        file.write_text("temp = 1", encoding="utf-8")
        write_setting("seed", 2)
        assert file.read_text(encoding="utf-8") == "temp = 1\nseed = 2\n"

    def test_a_file_that_is_not_toml_stays_as_it_is(self, file: Path) -> None:
        file.write_text("temp = ", encoding="utf-8")
        with pytest.raises(UsageError, match="is not TOML"):
            write_setting("seed", 2)
        assert file.read_text(encoding="utf-8") == "temp = "

    def test_a_link_stays_one_and_permissions_stay_what_they_were(self, file: Path, tmp_path: Path) -> None:
        elsewhere = tmp_path / "dotfiles.toml"
        elsewhere.write_text("seed = 1\n", encoding="utf-8")
        elsewhere.chmod(0o600)
        file.symlink_to(elsewhere)
        write_setting("seed", 2)
        assert file.is_symlink()
        assert elsewhere.read_text(encoding="utf-8") == "seed = 2\n"
        assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o600

    def test_a_folder_that_is_not_there_is_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("QNEXT_CONFIG", str(tmp_path / "new" / "c.toml"))
        write_setting("seed", 2)
        assert ConfigFile.read().values == {"seed": 2}


@trying(max_examples=20, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"])),
    texts=st.lists(st.text("a\"'\\#\n\x7f]é"), min_size=1),
)
def test_any_text_comes_back_as_it_was_written(
    text: str, texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    os.environ["QNEXT_CONFIG"] = str(tmp_path_factory.getbasetemp() / "any.toml")
    stops = [each for each in texts if each] or ["x"]
    write_setting("system", text)
    write_setting("stop", stops)
    assert ConfigFile.read().values == {"system": text, "stop": stops}


class TestCommand:
    def test_the_list_says_where_each_value_comes_from(
        self, qnext: Run, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file.write_text("model = 'coder-4bit'\n\ntemp = 0.6\n", encoding="utf-8")
        monkeypatch.setenv("QNEXT_MODEL", "demo")
        code, out, _ = qnext("config")
        rows = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines() if line}
        assert code == 0
        assert rows["model"] == "demo QNEXT_MODEL"
        assert rows["temp"] == "0.6 line 3 of the file"
        assert rows["kv-bits"] == "16 built in"
        assert rows["when-full"] == "drop (chat), stop (generate) built in"
        assert rows.keys() >= settings().keys()

    def test_set_unset_and_path(self, qnext: Run, file: Path) -> None:
        assert qnext("config", "path") == (0, f"{file}\n", "")
        assert qnext("config", "set", "presence-penalty", "-0.5")[0] == 0
        assert qnext("config", "set", "stop", "a b", "c")[0] == 0
        assert file.read_text(encoding="utf-8") == 'presence-penalty = -0.5\nstop = ["a b", "c"]\n'
        assert qnext("config", "unset", "stop")[0] == 0
        assert file.read_text(encoding="utf-8") == "presence-penalty = -0.5\n"

    def test_a_list_of_a_wrong_file_says_all_that_is_wrong_and_the_rest(self, qnext: Run, file: Path) -> None:
        file.write_text("temp = 'hot'\nturbo = 1\nseed = 7\n", encoding="utf-8")
        code, out, err = qnext("config")
        assert code == 2
        assert "line 3 of the file" in out
        assert re.search(r"^qnext: .*, line 1: temp is 'hot', .*\n.*, line 2: 'turbo' is no setting: ", err)
        assert qnext("config", "set", "temp", "1")[0] == qnext("config", "unset", "turbo")[0] == 0
        assert qnext("config")[0] == 0

    def test_get_prints_what_holds(self, qnext: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file.write_text("temp = 0.6\nmodel = 'coder-4bit'\n", encoding="utf-8")
        monkeypatch.setenv("QNEXT_MODEL", "demo")
        for key, value in (("temp", "0.6"), ("model", "demo"), ("kv-bits", "16"), ("top-k", "")):
            assert qnext("config", "get", key) == (0, f"{value}\n", "")
        assert qnext("config", "get", "modle")[0] == 2

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            (["set", "temp", "hot"], 2, "temp is 'hot', expected a number."),
            (["set", "temp", "1", "2"], 2, "temp has 2 values, expected one"),
            (["set", "modle", "demo"], 2, "did you mean model?"),
            (["set", "model", "coder-4bits"], 3, "did you mean coder-4bit?"),
            (["unset", "modle"], 2, "did you mean model?"),
        ],
    )
    def test_mistakes_are_refused_and_nothing_is_written(
        self, arguments: list[str], code: int, said: str, qnext: Run, file: Path
    ) -> None:
        found = qnext("config", *arguments)
        assert found[0] == code
        assert said in found[2]
        assert not file.exists()

    def test_a_setting_that_another_version_knew_can_be_taken_out(self, qnext: Run, file: Path) -> None:
        file.write_text("temp = 1\nturbo = 9\n", encoding="utf-8")
        assert qnext("config", "unset", "turbo")[0] == 0
        assert file.read_text(encoding="utf-8") == "temp = 1\n"

    def test_a_folder_is_found_from_everywhere(
        self, qnext: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "weights").mkdir()
        monkeypatch.chdir(tmp_path)
        assert qnext("config", "set", "model", "weights")[0] == 0
        assert ConfigFile.read().values == {"model": str(tmp_path / "weights")}


class TestPrecedence:
    """The command line before the environment, that before the file, and that before what is built in."""

    @pytest.fixture
    def given_to(self, qnext: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
        """What a command is called with, and where each value came from."""

        def run(command: str, *arguments: str) -> dict[str, Any]:
            found: dict[str, Any] = {}
            wrapped = typer.main.get_command(app)
            target = wrapped.commands[command]  # pyright: ignore[reportAttributeAccessIssue]

            def invoke(call: Any) -> None:
                found.update(
                    {
                        name: (value, call.get_parameter_source(name).name)
                        for name, value in call.params.items()
                    }
                )

            monkeypatch.setattr(target, "invoke", invoke)
            wrapped([command, *arguments], prog_name="qnext", standalone_mode=False)
            return found

        return run

    def test_the_first_that_says_something_counts(
        self, file: Path, given_to: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file.write_text(
            "model = 'coder-4bit'\ntemp = 0\nthinking = 'hide'\ndraft = 2\nstop = ['a', 'b']\nno-think = true\n",
            encoding="utf-8",
        )
        for command in ("chat", "generate"):
            found = given_to(command, "--temp", "0.5", "--think")
            assert found["temp"] == (0.5, "COMMANDLINE")
            assert found["no_think"] == (False, "COMMANDLINE")
            assert found["model"] == ("coder-4bit", "DEFAULT_MAP")
            assert found["draft"] == ("2", "DEFAULT_MAP")
            assert (list(found["stop"][0]), found["stop"][1]) == (["a", "b"], "DEFAULT_MAP")
            assert found["thinking"] == ("hide", "DEFAULT_MAP")
            assert found["kv_bits"] == (16, "DEFAULT")
        monkeypatch.setenv("QNEXT_MODEL", "demo")
        assert given_to("chat")["model"] == ("demo", "ENVIRONMENT")
        assert given_to("chat")["temp"] == (0.0, "DEFAULT_MAP")
        assert given_to("batch", "in.jsonl")["draft"] == ("2", "DEFAULT_MAP")
        assert given_to("inspect")["model"] == ("demo", "ENVIRONMENT")

    def test_what_a_conversation_was_saved_with_comes_before_the_file_and_after_the_command_line(
        self, qnext: Run, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file.write_text("model = 'coder-8bit'\ncontext = '8k'\nkv-bits = 8\n", encoding="utf-8")
        saved = SimpleNamespace(settings={"model": "coder-4bit", "context": "4k"})
        monkeypatch.setattr("mlx_qnext.sessions.library.SessionLibrary.read", lambda library, name: saved)
        loaded: list[tuple[str, Room]] = []

        def load(model: str, err: object, room: Room) -> None:
            loaded.append((model, room))
            raise UsageError("Enough is known.")

        monkeypatch.setattr("cli.chat.load_engine", load)
        for arguments in ([], ["--resume", "notes"], ["--resume", "notes", "--model", "demo"]):
            assert qnext("chat", *arguments)[0] == 2
        assert loaded == [
            ("coder-8bit", Room(None, 8192, 8)),
            ("coder-4bit", Room(None, 4096, 8)),
            ("demo", Room(None, 4096, 8)),
        ]

    def test_a_file_that_is_wrong_stops_what_it_counts_for_and_nothing_else(
        self, qnext: Run, file: Path
    ) -> None:
        file.write_text("tmp = 1\n", encoding="utf-8")
        code, _, said = qnext("generate", "hi")
        assert (code, said) == (2, f"qnext: {file}, line 1: 'tmp' is no setting: did you mean temp?\n")
        assert qnext("sessions")[0] == 0
        assert re.fullmatch(r"qnext \d\S+\nmlx \d\S+, mlx-lm \d\S+\n", qnext("--version")[1])
