"""A session on disk is what was saved, or says what is wrong with it; whatever stops a save, the one before it is there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_files import FACTS, IDENTITY, MESSAGES, SETTINGS, after, full, interrupted, made_up, same, saved

from mlx_qnext.cache.frozen import Frozen
from mlx_qnext.errors import OutputError, QnextError, SessionError, UsageError
from mlx_qnext.safetensors_header import read_header
from mlx_qnext.sessions import cache_file
from mlx_qnext.sessions.library import SessionLibrary
from mlx_qnext.sessions.opened import OpenSession

OTHERS = {
    "other weights": ({"weights": "ff", "model": "coder"}, "was saved with demo, and this is coder"),
    "other weights of its name": ({"weights": "ff"}, "this is other weights of that name"),
    "another template": ({"template": "00"}, "another tokenizer or chat template"),
    "other keys and values": ({"kv_bits": 8}, "keys and values as computed, and here they are at 8 bits"),
    "another dtype": ({"dtype": "bfloat16"}, "computes in float32, and here it does in bfloat16"),
}
MORE = [*MESSAGES, {"role": "user", "content": "and 3 + 4?"}]

Spoil = Callable[[Path], object]


@pytest.fixture
def library(tmp_path: Path) -> SessionLibrary:
    return SessionLibrary(tmp_path / "sessions")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with one session, to be copied."""
    folder = tmp_path_factory.mktemp("sound")
    saved(SessionLibrary(folder))
    return folder


def cache_of(folder: Path) -> Path:
    (path,) = folder.glob("cache-*")
    return path


def content_of(opened: OpenSession) -> tuple[object, object, Frozen]:
    return list(opened.messages), opened.settings, opened.frozen(IDENTITY)


def unchanged(library: SessionLibrary, fill: float = 1.5) -> bool:
    with library.open("one") as opened:
        messages, kept, frozen = content_of(opened)
    return (messages, kept) == (MESSAGES, SETTINGS) and same(frozen, made_up(fill))


class TestRoundTrip:
    def test_what_was_saved_is_read(self, library: SessionLibrary) -> None:
        saved(library)
        assert unchanged(library)

    def test_the_cache_is_a_file_that_others_can_read(self, library: SessionLibrary) -> None:
        saved(library)
        path = cache_of(library.folder / "one")
        assert {tensor.name for tensor in read_header(path).tensors} == made_up().arrays.keys()
        arrays = mx.load(str(path))
        assert isinstance(arrays, dict)
        assert same(Frozen(arrays, dict(FACTS)), made_up())

    def test_a_save_replaces_the_one_before_it(self, library: SessionLibrary) -> None:
        saved(library)
        with library.open("one") as opened:
            assert opened.save(made_up(2.5), MORE, {}, IDENTITY) is None
            assert list(opened.messages) == MORE
            assert same(opened.frozen(IDENTITY), made_up(2.5))
        assert len(list((library.folder / "one").iterdir())) == 2

    def test_a_session_that_has_read_nothing_is_saved_too(self, library: SessionLibrary) -> None:
        with library.create("one") as opened:
            opened.save(Frozen({}, {"position": 0}), [], {}, IDENTITY)
        with library.open("one") as opened:
            assert same(opened.frozen(IDENTITY), Frozen({}, {"position": 0}))

    def test_arrays_are_let_go_of_as_they_are_written(
        self, library: SessionLibrary, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cache_file, "BATCH_BYTES", 1 << 20)
        frozen = Frozen({str(n): mx.full((1 << 18,), n, mx.float32) for n in range(16)}, {})
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        with library.create("one") as opened:
            opened.save(frozen, [], {}, IDENTITY)
        assert frozen.arrays == {}
        assert mx.get_peak_memory() - before < 4 * (1 << 20)

    def test_only_the_owner_may_read_it(self, library: SessionLibrary) -> None:
        before = os.umask(0)
        try:
            saved(library)
        finally:
            os.umask(before)
        folder = library.folder / "one"
        assert [path.stat().st_mode & 0o777 for path in (library.folder, folder)] == [0o700] * 2
        assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600] * 2

    def test_text_that_no_encoding_has_comes_back(self, library: SessionLibrary) -> None:
        said = [{"role": "user", "content": "\udc80 and \x00"}]
        with library.create("one") as opened:
            opened.save(None, said, {}, IDENTITY)
        assert list(library.read("one").messages) == said


class TestRefusals:
    @pytest.mark.parametrize(("changes", "said"), OTHERS.values(), ids=OTHERS.keys())
    def test_a_cache_of_another_model_says_what_differs(
        self, changes: dict[str, Any], said: str, library: SessionLibrary
    ) -> None:
        saved(library)
        with library.open("one") as opened:
            with pytest.raises(SessionError, match=said) as refusal:
                opened.frozen(replace(IDENTITY, **changes))
            assert "can still be read with qnext sessions show one" in str(refusal.value)
            assert list(opened.messages) == MESSAGES

    def test_what_differs_is_said_before_the_file_is_looked_at(self, library: SessionLibrary) -> None:
        saved(library)
        cache_of(library.folder / "one").unlink()
        with library.open("one") as opened:
            with pytest.raises(SessionError, match="chat template"):
                opened.frozen(replace(IDENTITY, template="00", dtype="float16"))
            with pytest.raises(SessionError, match="lacks its cache"):
                opened.frozen(IDENTITY)

    def test_a_transcript_says_that_it_is_one(self, library: SessionLibrary) -> None:
        with library.create("one") as opened:
            opened.save(None, MESSAGES, SETTINGS, IDENTITY)
            with pytest.raises(SessionError, match="without what the model had read"):
                opened.frozen(IDENTITY)

    def test_another_format_is_named(self, library: SessionLibrary) -> None:
        saved(library)
        manifest = library.folder / "one" / "session.json"
        manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 7'))
        with pytest.raises(
            SessionError, match="was saved in format 7, and this version of qnext reads format 1"
        ):
            library.open("one")

    def test_a_cache_outside_its_folder_is_not_read(self, library: SessionLibrary) -> None:
        saved(library)
        opened = library.open("one")
        opened.close()
        manifest = library.folder / "one" / "session.json"
        path = cache_of(library.folder / "one")
        manifest.write_text(manifest.read_text().replace(path.name, f"../{path.name}"))
        with pytest.raises(SessionError, match="was damaged on disk"):
            library.open("one")

    @pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": 1, "session": ' + b"[" * 100_000])
    def test_a_manifest_that_is_none_is_refused(self, content: bytes, library: SessionLibrary) -> None:
        saved(library)
        (library.folder / "one" / "session.json").write_bytes(content)
        with pytest.raises(SessionError, match="was damaged on disk: what is left of its text is in"):
            library.open("one")


class TestDamage:
    """Wherever it is, what comes back is what was saved, or a sentence."""

    @given(st.data(), st.integers(1, 255))
    @settings(max_examples=60, deadline=None)
    def test_a_byte_that_changed(self, sound: Path, data: st.DataObject, flip: int) -> None:
        file = data.draw(st.sampled_from(["session.json", cache_of(sound / "one").name]))
        at = data.draw(st.integers(0, (sound / "one" / file).stat().st_size - 1))

        def spoil(path: Path) -> None:
            content = bytearray(path.read_bytes())
            content[at] ^= flip
            path.write_bytes(content)

        self._check(sound, file, spoil)

    @given(st.data())
    @settings(max_examples=40, deadline=None)
    def test_a_file_that_is_shorter_or_longer(self, sound: Path, data: st.DataObject) -> None:
        file = data.draw(st.sampled_from(["session.json", cache_of(sound / "one").name]))
        size = data.draw(st.integers(0, (sound / "one" / file).stat().st_size + 9))
        self._check(sound, file, lambda path: os.truncate(path, size))

    def _check(self, sound: Path, file: str, spoil: Spoil) -> None:
        copy = sound.parent / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(sound, copy)
        spoil(copy / "one" / file)
        library = SessionLibrary(copy)
        assert [info.name for info in library.list()] == ["one"]
        with suppress(SessionError):
            assert unchanged(library)


class TestBrokenSaves:
    @pytest.mark.parametrize("fail", [full, interrupted])
    @pytest.mark.parametrize("step", ["pwrite", "replace", "fsync"])
    @pytest.mark.parametrize("calls", [0, 1, 2])
    def test_whatever_stops_a_save_all_messages_of_the_one_before_are_there(
        self,
        fail: Callable[..., int],
        step: str,
        calls: int,
        library: SessionLibrary,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        saved(library)
        with library.open("one") as opened, monkeypatch.context() as patched:
            place = Path if step == "replace" else os
            patched.setattr(place, step, after(calls, getattr(place, step), fail))
            try:
                refused = opened.save(made_up(2.5), MORE, SETTINGS, IDENTITY)
            except (OutputError, KeyboardInterrupt):
                refused = None
        self._check_either(library, refused)

    def _check_either(self, library: SessionLibrary, refused: str | None) -> None:
        """The messages are the old or the new, and so is the cache; nothing else is left."""
        with library.open("one") as opened:
            messages, _, frozen = content_of(opened)
        assert messages in (MESSAGES, MORE)
        old, new = (same(frozen, made_up(fill)) for fill in (1.5, 2.5))
        assert old if refused else old or new
        assert messages == MORE or old
        assert len(list((library.folder / "one").iterdir())) == 2

    def test_a_full_disk_keeps_the_messages_and_the_cache_before(
        self, library: SessionLibrary, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        saved(library)
        with library.open("one") as opened, monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", full)
            refused = opened.save(made_up(2.5), MORE, SETTINGS, IDENTITY)
            assert refused is not None
            assert refused.startswith("The disk is full while ")
            assert refused.endswith("The messages of one are saved all the same.")
            assert list(opened.messages) == MORE
            assert same(opened.frozen(IDENTITY), made_up(1.5))

    def test_what_would_not_fit_is_not_begun(
        self, library: SessionLibrary, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with library.create("one") as opened, monkeypatch.context() as patched:
            usage = shutil.disk_usage(library.folder)._replace(free=100)
            patched.setattr(cache_file.shutil, "disk_usage", lambda _: usage)
            patched.setattr(cache_file, "create_private", interrupted)
            assert "disk is full" in (opened.save(made_up(), MESSAGES, SETTINGS, IDENTITY) or "")
        with library.open("one") as opened:
            assert list(opened.messages) == MESSAGES

    def test_a_folder_that_may_not_be_written_says_so(
        self, library: SessionLibrary, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        saved(library)

        def refused(*_: object, **__: object) -> int:
            raise PermissionError(13, "Permission denied")

        with library.open("one") as opened, monkeypatch.context() as patched:
            patched.setattr(os, "open", refused)
            with pytest.raises(OutputError, match="cannot be written: check its folder's permissions"):
                opened.save(made_up(2.5), MORE, SETTINGS, IDENTITY)
        assert unchanged(library)

    @pytest.mark.parametrize(("step", "kept"), [("before", MESSAGES), ("after", MORE)])
    def test_a_crash_around_the_rename_leaves_one_save_whole(
        self, step: str, kept: object, library: SessionLibrary
    ) -> None:
        saved(library)
        code = f"""
import os, pathlib
from session_files import *
rename = pathlib.Path.replace
def crash(*args):
    if {step!r} == "after": rename(*args)
    os._exit(9)
pathlib.Path.replace = crash
library = SessionLibrary(pathlib.Path({str(library.folder)!r}))
library.open("one").save(made_up(2.5), {MORE!r}, SETTINGS, IDENTITY)
"""
        ended = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True)
        assert ended.returncode == 9, ended.stderr
        folder = library.folder / "one"
        assert len(list(folder.glob("cache-*"))) == 2
        with library.open("one") as opened:
            messages, _, frozen = content_of(opened)
        assert messages == kept
        assert same(frozen, made_up(1.5 if step == "before" else 2.5))
        assert len(list(folder.iterdir())) == 2

    def test_a_session_that_was_never_saved_leaves_nothing(self, library: SessionLibrary) -> None:
        library.create("one").close()
        assert library.list() == []
        assert list(library.folder.iterdir()) == []
        with pytest.raises(SessionError, match="There is no session one"):
            library.open("one")


def test_all_refusals_are_errors_of_ours() -> None:
    assert issubclass(SessionError, QnextError)
    assert SessionError.exit_code not in {OutputError.exit_code, UsageError.exit_code}
