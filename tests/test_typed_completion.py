"""What Tab offers behind a slash, and that it offers nothing elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_chat_settings import PLAIN

from cli.adjusting import NAMES, changed
from cli.commands import COMMANDS
from cli.typed_completion import candidates
from mlx_qnext.hub import ALIASES


def completed(typed: str) -> list[str]:
    """The lines that it may become."""
    return [typed[: len(typed) - each.replaced] + each.text for each in candidates(typed)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user is, and at home."""
    for name in (
        "notes.txt",
        "no space.md",
        "Über.json",
        ".hidden",
        "bad\x1b[31m",
        "sub/deep.md",
        "sub/er/x",
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "What is 1 + 2?",
        "see /he",
        " /he",
        "one\n/he",
        "/system You\n/he",
        "/nonsense n",
        "/undo ",
        "/edit 1",
    ],
)
def test_what_is_no_command_is_left_alone(typed: str, folder: Path) -> None:
    assert completed(typed) == []


def test_commands_with_what_they_do() -> None:
    assert [each.shown for each in candidates("/")] == list(COMMANDS)
    assert {each.meaning for each in candidates("/")} == {command.meaning for command in COMMANDS.values()}
    # Those that take something are ready for it.
    assert completed("/un") == ["/undo"]
    assert completed("/ed") == ["/edit "]
    assert completed("/se") == ["/set ", "/sessions"]
    assert completed("/SE") == ["/set ", "/sessions"]


def test_commands_as_other_chats_call_them() -> None:
    assert completed("/ex") == ["/export ", "/exit"]
    assert completed("/b") == ["/bye"]
    assert completed("/ne") == ["/new"]
    assert completed("/? ed") == ["/? edit"]
    assert completed("/new ") == []


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("/help ed", ["/help edit"]),
        ("/think ", ["/think show", "/think collapse", "/think hide"]),
        ("/think  h", ["/think  hide"]),
        ("/set te", ["/set temp "]),
        ("/set think ", ["/set think on", "/set think off", "/set think default"]),
        ("/set temp d", ["/set temp default"]),
        ("/set nonsense x", []),
        ("/model coder-4", ["/model coder-4bit"]),
        ("/save ", []),
        ("/file --", ["/file --none"]),
        ("/export -", []),
        ("/export no space.md --", ["/export no space.md --thinking", "/export no space.md --overwrite"]),
        ("/export x.md --overwrite --", ["/export x.md --overwrite --thinking"]),
    ],
)
def test_what_a_command_takes(typed: str, expected: list[str], folder: Path) -> None:
    assert completed(typed) == expected


def test_every_value_that_is_offered_can_be_set() -> None:
    for name in NAMES:
        for line in completed(f"/set {name} "):
            changed(PLAIN, name, line.split()[2])


def test_saved_conversations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QNEXT_SESSIONS", str(tmp_path))
    for name in ("sums", "sorting things", "empty"):
        (tmp_path / name).mkdir()
        if name != "empty":
            (tmp_path / name / "session.json").touch()
    assert completed("/load s") == ["/load sorting things", "/load sums"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("/file ", ["no space.md", "notes.txt", "sub/", "Über.json"]),
        ("/file no", ["no space.md", "notes.txt"]),
        ("/file no s", ["no space.md"]),
        ("/file .", [".hidden"]),
        ("/file sub/", ["sub/deep.md", "sub/er/"]),
        ("/file ~", ["~/"]),
        ("/file ~/no", ["~/no space.md", "~/notes.txt"]),
        ("/export ", ["no space.md", "sub/", "Über.json"]),
        ("/model ./s", ["./sub/"]),
        ("/model su", ["sub/"]),
        ("/file nowhere/", []),
        ("/file notes.txt/", []),
        ("/file ~nobody-of-this-name/", []),
        ("/file \0/", []),
    ],
)
def test_paths(typed: str, expected: list[str], folder: Path) -> None:
    command = typed.partition(" ")[0]
    assert completed(typed) == [f"{command} {path}" for path in expected]


def test_absolute_paths(folder: Path) -> None:
    assert completed(f"/file {folder}/not") == [f"/file {folder}/notes.txt"]


def test_models_are_named_before_anything_is_typed() -> None:
    assert {line.removeprefix("/model ") for line in completed("/model ")} >= set(ALIASES)
