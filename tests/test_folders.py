"""Where things are kept: where the user says, or else where the platform has people look for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest
from platformdirs import macos, unix

from mlx_qnext.folders import cache_folder, config_file, history_file, sessions_folder

KINDS = [
    pytest.param(cache_folder, "QNEXT_CACHE", "XDG_CACHE_HOME", id="cache"),
    pytest.param(sessions_folder, "QNEXT_SESSIONS", "XDG_DATA_HOME", id="sessions"),
    pytest.param(config_file, "QNEXT_CONFIG", "XDG_CONFIG_HOME", id="config"),
    pytest.param(history_file, "QNEXT_HISTORY", "XDG_STATE_HOME", id="history"),
]
BELOW_HOME = {
    cache_folder: ".cache/qnext",
    sessions_folder: ".local/share/qnext/sessions",
    config_file: ".config/qnext/config.toml",
    history_file: ".local/state/qnext/history.jsonl",
}
BELOW_LIBRARY = {
    cache_folder: "Caches/qnext",
    sessions_folder: "Application Support/qnext/sessions",
    config_file: "Application Support/qnext/config.toml",
    history_file: "Application Support/qnext/history.jsonl",
}

Folder = Callable[[], Path]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("QNEXT_CACHE", "QNEXT_SESSIONS", "QNEXT_CONFIG", "QNEXT_HISTORY"):
        monkeypatch.setenv(name, "")
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(platformdirs, "PlatformDirs", unix.Unix)
    return tmp_path


@pytest.mark.parametrize(("folder", "own", "xdg"), KINDS)
class TestFolder:
    def test_the_programs_own_variable_comes_first(
        self, folder: Folder, own: str, xdg: str, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(xdg, str(home / "xdg"))
        monkeypatch.setenv(own, str(home / "own"))
        assert folder() == home / "own"

    def test_a_mac_keeps_it_in_its_library(
        self, folder: Folder, own: str, xdg: str, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(platformdirs, "PlatformDirs", macos.MacOS)
        assert folder() == home / "Library" / BELOW_LIBRARY[folder]

    @pytest.mark.parametrize("value", ["", "relative/path"])
    def test_elsewhere_it_is_below_home(
        self, value: str, folder: Folder, own: str, xdg: str, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(xdg, value)
        assert folder() == home / BELOW_HOME[folder]

    def test_elsewhere_the_desktops_variable_is_heeded(
        self, folder: Folder, own: str, xdg: str, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(xdg, str(home / "xdg"))
        assert folder().parts[: len(home.parts) + 2] == (*home.parts, "xdg", "qnext")

    def test_a_user_without_a_home_has_none(
        self, folder: Folder, own: str, xdg: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("os.path.expanduser", lambda path: path)
        with pytest.raises(RuntimeError):
            folder()
