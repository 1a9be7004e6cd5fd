"""What was typed is remembered, whatever has become of the file; and where it cannot be, that is said and no more."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from cli import input_history
from cli.input_history import InputHistory


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "state" / "history.jsonl"
    monkeypatch.setenv("QNEXT_HISTORY", str(path))
    return path


def texts() -> list[str]:
    return InputHistory().texts()


def add(*added: str) -> None:
    history = InputHistory()
    for text in added:
        history.add(text)
    assert history.trouble is None


def test_it_holds_texts_of_any_shape_for_the_next_chat(file: Path) -> None:
    assert texts() == []
    odd = ["one", "two\nlines", '"""\nquoted\\', "寿司 👩‍👩‍👧\t\x1b[31m", "bad \udcff byte", "", "#"]
    add(*odd)
    assert texts() == [each.replace("\udcff", "?") for each in odd]
    assert len(file.read_text().splitlines()) == len(odd)


def test_nobody_else_may_read_it(file: Path) -> None:
    before = os.umask(0)
    try:
        add("a secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_chat_that_is_not_to_be_remembered_reads_it_and_never_writes_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add("one", "two", "three")
    # So full that another chat would cut it.
    monkeypatch.setattr(input_history, "_TOO_MANY_TEXTS", 2)
    monkeypatch.setattr(input_history, "MOST_TEXTS", 2)
    before, since = file.read_bytes(), file.stat().st_ino
    history = InputHistory(adds=False)
    assert history.texts()[-1] == "three"
    history.add("a secret")
    assert (file.read_bytes(), file.stat().st_ino) == (before, since)


def test_where_nothing_is_added_no_folder_is_made(file: Path) -> None:
    InputHistory(adds=False).add("a secret")
    assert not file.parent.exists()


def test_damage_costs_no_more_than_the_lines_that_have_it(file: Path) -> None:
    add("before")
    with file.open("ab") as torn:
        torn.write(b'\xff\xfe\0\n[[[\n{"a": 1}\n7\n"half')
    add("after")
    assert texts() == ["before", "after"]


def test_it_is_trimmed_to_the_last_texts(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_history, "MOST_TEXTS", 3)
    monkeypatch.setattr(input_history, "_TOO_MANY_TEXTS", 4)
    add("1", "2", "3", "4")
    assert texts() == ["1", "2", "3", "4"]
    add("5")
    assert texts() == ["3", "4", "5"]
    assert file.read_text() == '"3"\n"4"\n"5"\n'
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_of_a_large_file_the_end_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_history, "_MOST_BYTES", 100)
    add(*(f"text {number}" for number in range(50)))
    found = texts()
    assert found[-1] == "text 49"
    assert 5 < len(found) < 12
    assert file.stat().st_size <= 100


def test_a_text_that_is_too_long_is_not_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_history, "_LONGEST", 5)
    add("short", "longer", "short")
    assert texts() == ["short", "short"]


def test_chats_that_write_and_trim_at_once_lose_nothing_of_each_other(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each reader finds too many, and replaces the file by all that it has.
    monkeypatch.setattr(input_history, "_TOO_MANY_TEXTS", 0)

    def chat(name: str) -> None:
        for number in range(25):
            add(f"{name} {number}")
            texts()

    threads = [threading.Thread(target=chat, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = texts()
    assert len(found) == 100
    for name in "abcd":
        assert [text for text in found if text.startswith(name)] == [
            f"{name} {number}" for number in range(25)
        ]


def test_a_link_stays_one(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_history, "_TOO_MANY_TEXTS", 0)
    file.parent.mkdir()
    file.symlink_to(tmp_path / "kept elsewhere")
    add("one")
    assert texts() == ["one"]
    assert file.is_symlink()
    assert json.loads((tmp_path / "kept elsewhere").read_text()) == "one"


def test_no_device_is_filled_or_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QNEXT_HISTORY", os.devnull)
    add("one")
    assert texts() == []


@pytest.mark.parametrize("place", ["a file/history", "a folder"])
def test_a_place_that_cannot_be_used_is_one_sentence(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").touch()
    (tmp_path / "a folder").mkdir()
    monkeypatch.setenv("QNEXT_HISTORY", str(tmp_path / place))
    history = InputHistory()
    assert history.texts() == []
    history.add("one")
    assert history.trouble is not None
    assert str(tmp_path / place) in history.trouble
    assert history.trouble.endswith("name another file with QNEXT_HISTORY.")


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError

    monkeypatch.setattr(input_history, "history_file", none)
    history = InputHistory()
    history.add("one")
    assert history.texts() == []
    assert history.trouble is not None
    assert "no home folder" in history.trouble
