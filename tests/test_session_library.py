"""Sessions are found by their names, listed without being read, and belong to one process at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path

import pytest
from session_files import IDENTITY, MESSAGES, made_up, saved

from mlx_qnext.errors import OutputError, SessionError, UsageError
from mlx_qnext.sessions import library as library_module
from mlx_qnext.sessions.library import SessionLibrary
from mlx_qnext.sessions.names import MAX_NAME_BYTES, automatic_names

GOOD = ["a", "2026-11-24-181530", "Sums and more", "v1.2_b", "é" * 50, "हिन्दी", "数学"]
BAD = [
    "",
    ".",
    "..",
    ".hidden",
    "a/b",
    "a\\b",
    "-x",
    " a",
    "a ",
    "a.",
    "a\nb",
    "a\0b",
    "a:b",
    "é" * 51,
    "\udc80",
]

HOLDER = """
import pathlib, sys
from mlx_qnext.sessions.library import SessionLibrary
opened = SessionLibrary(pathlib.Path(sys.argv[1])).open("one")
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def library(tmp_path: Path) -> SessionLibrary:
    return SessionLibrary(tmp_path / "sessions")


@pytest.fixture
def holder(library: SessionLibrary) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the session open until its input ends."""
    saved(library)
    command = [sys.executable, "-c", HOLDER, str(library.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


class TestNames:
    @pytest.mark.parametrize("name", GOOD)
    def test_a_sound_name_is_a_folders(self, name: str, library: SessionLibrary) -> None:
        saved(library, name)
        assert [info.name for info in library.list()] == [name]
        assert library.latest() == name

    @pytest.mark.parametrize("name", BAD)
    def test_another_is_refused_in_a_sentence(self, name: str, library: SessionLibrary) -> None:
        for refuse in (library.create, library.open, library.delete, library.read):
            with pytest.raises(UsageError, match="A session cannot be called"):
                refuse(name)

    def test_names_have_a_limit(self, library: SessionLibrary) -> None:
        saved(library, "n" * MAX_NAME_BYTES)
        with pytest.raises(UsageError, match="at most 100 bytes, and this one takes 101"):
            library.create("n" * (MAX_NAME_BYTES + 1))

    def test_case_and_composition_make_no_second_session(self, library: SessionLibrary) -> None:
        saved(library, "Caf\u00e9")
        with library.open("CAFE\u0301") as opened:
            assert opened.name == "Caf\u00e9"
        with pytest.raises(SessionError, match="is there already"):
            library.create("caf\u00e9")

    def test_a_name_is_used_once(self, library: SessionLibrary) -> None:
        saved(library)
        with pytest.raises(SessionError, match="one is there already: choose another name"):
            library.create("one")

    def test_automatic_names_are_of_the_time_and_never_the_same(
        self, library: SessionLibrary, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = datetime(2026, 11, 24, 18, 15, 30)
        assert list(islice(automatic_names(now), 3)) == [
            f"2026-11-24-181530{end}" for end in ("", "-2", "-3")
        ]
        names = ["2026-11-24-181530", "2026-11-24-181530-2"]
        monkeypatch.setattr(library_module, "automatic_names", lambda _: iter(names))
        saved(library, names[0])
        with library.create() as opened:
            assert opened.name == names[1]

    def test_an_automatic_name_that_is_not_saved_yet_is_taken_too(
        self, library: SessionLibrary, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(library_module, "automatic_names", lambda _: iter(["a", "b"]))
        with library.create() as one, library.create() as other:
            assert (one.name, other.name) == ("a", "b")


class TestLists:
    def test_there_are_none_at_first(self, library: SessionLibrary) -> None:
        assert library.list() == []
        assert library.latest() is None
        assert not library.folder.exists()

    def test_the_last_saved_comes_first(self, library: SessionLibrary) -> None:
        for name in ("b", "a", "c"):
            saved(library, name)
        with library.open("a") as opened:
            opened.save(made_up(), MESSAGES, {}, IDENTITY)
        assert [info.name for info in library.list()] == ["a", "c", "b"]
        assert library.latest() == "a"

    def test_each_says_what_it_is(self, library: SessionLibrary) -> None:
        saved(library)
        (info,) = library.list()
        assert (info.model, info.title, info.turns, info.cached_tokens, info.trouble) == (
            "demo",
            "What is 47 + 85?",
            1,
            3,
            None,
        )
        assert info.nbytes >= sum(path.stat().st_size for path in (library.folder / "one").iterdir())

    def test_caches_are_not_read(self, library: SessionLibrary) -> None:
        saved(library)
        (cache,) = (library.folder / "one").glob("cache-*")
        os.truncate(cache, 0)
        assert library.list()[0].trouble is None

    def test_a_damaged_one_says_so_and_others_are_listed(self, library: SessionLibrary) -> None:
        saved(library, "bad")
        saved(library, "good")
        (library.folder / "bad" / "session.json").write_text("{")
        found = {info.name: info.trouble for info in library.list()}
        assert found == {"good": None, "bad": "was damaged on disk"}
        assert library.latest() == "good"

    def test_folders_of_other_things_are_neither_listed_nor_touched(self, library: SessionLibrary) -> None:
        other = library.folder / "photos"
        other.mkdir(parents=True)
        (other / "one.jpg").touch()
        assert library.list() == []
        for refuse in (library.create, library.open, library.delete):
            with pytest.raises(SessionError):
                refuse("photos")
        assert [path.name for path in other.iterdir()] == ["one.jpg"]

    def test_one_can_be_read_while_another_process_has_it(
        self, library: SessionLibrary, holder: subprocess.Popen[str]
    ) -> None:
        assert list(library.read("one").messages) == MESSAGES


class TestDeleting:
    def test_it_is_gone(self, library: SessionLibrary) -> None:
        saved(library)
        saved(library, "two")
        library.delete("one")
        assert [path.name for path in library.folder.iterdir()] == ["two"]

    def test_a_damaged_one_can_be_deleted(self, library: SessionLibrary) -> None:
        saved(library)
        (library.folder / "one" / "session.json").write_text("{")
        library.delete("one")
        assert list(library.folder.iterdir()) == []

    def test_what_was_broken_off_is_listed_and_can_be_deleted_again(
        self, library: SessionLibrary, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        saved(library)
        with monkeypatch.context() as patched:

            def refused(*_: object) -> None:
                raise OSError(5, "Input/output error")

            patched.setattr(Path, "rmdir", refused)
            with pytest.raises(OutputError):
                library.delete("one")
        (library.folder / "one" / "cache-00.safetensors").touch()
        assert [info.trouble for info in library.list()] == ["was not saved to its end"]
        library.delete("one")
        assert list(library.folder.iterdir()) == []

    def test_a_missing_one_is_named(self, library: SessionLibrary) -> None:
        for refuse in (library.delete, library.open, library.read):
            with pytest.raises(SessionError, match="There is no session one: list those there are"):
                refuse("one")


class TestTwoProcesses:
    def test_the_second_is_told_who_has_it_and_gets_it_when_the_first_is_killed(
        self, library: SessionLibrary, holder: subprocess.Popen[str]
    ) -> None:
        for refuse in (library.open, library.delete):
            with pytest.raises(SessionError, match=f"one is in use by another qnext, process {holder.pid}"):
                refuse("one")
        holder.kill()
        holder.wait()
        with library.open("one") as opened:
            assert list(opened.messages) == MESSAGES

    def test_one_process_has_it_once(self, library: SessionLibrary) -> None:
        saved(library)
        with library.open("one"), pytest.raises(SessionError, match="one is in use already"):
            library.open("one")
        library.open("one").close()

    @pytest.mark.parametrize("again", [False, True])
    def test_one_that_is_deleted_while_it_is_opened_is_not_there(
        self, again: bool, library: SessionLibrary, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        saved(library)
        opening = os.open

        def slow(path: Path, *args: int) -> int:
            descriptor = opening(path, *args)
            monkeypatch.setattr(os, "open", opening)
            library.delete("one")
            if again:
                saved(library)
            return descriptor

        monkeypatch.setattr(os, "open", slow)
        with pytest.raises(SessionError, match="There is no session one"):
            library.open("one")


class TestPlaces:
    def test_a_file_in_the_folders_place_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "sessions").write_text("")
        library = SessionLibrary(tmp_path / "sessions")
        with pytest.raises(SessionError, match="cannot be read"):
            library.list()
        with pytest.raises(OutputError, match="cannot be written"):
            library.create("one")

    def test_without_a_home_a_folder_must_be_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("QNEXT_SESSIONS")
        monkeypatch.delenv("XDG_DATA_HOME", raising=False)
        monkeypatch.setattr("os.path.expanduser", lambda path: path)
        with pytest.raises(SessionError, match="name one with QNEXT_SESSIONS"):
            SessionLibrary().list()

    def test_the_users_own_folder_is_the_default(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("QNEXT_SESSIONS", str(tmp_path / "mine"))
        saved(SessionLibrary())
        assert [path.name for path in (tmp_path / "mine").iterdir()] == ["one"]

    def test_what_cannot_be_written_can_be_opened(
        self, library: SessionLibrary, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        saved(library)

        def refused(*_: object, **__: object) -> None:
            raise PermissionError(30, "Read-only file system")

        for method in ("write_text", "unlink", "mkdir"):
            monkeypatch.setattr(Path, method, refused)
        with library.open("one") as opened:
            assert list(opened.messages) == MESSAGES
