"""The list of local models, and what a shell completes, without a hub and without MLX."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from chats import text
from program import ROOT

from cli.local_models import LocalModel, cached_repositories, local_models
from cli.main import main
from cli.views.models import ModelList
from mlx_qnext.hub import embedded_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER = "89abcdef0123456789abcdef0123456789abcdef"
QUANTISED = {"model_type": "qwen3_next", "quantization": {"bits": 4, "group_size": 64}}
CODER = "mlx-community/Qwen3-Coder-Next-4bit"


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def snapshot(
    cache: Path,
    repository: str,
    files: dict[str, object],
    *,
    commit: str = COMMIT,
    reference: str = "main",
    partial: int = 0,
) -> Path:
    """A repository as the hub's client keeps it: snapshots of links to blobs; JSON, or so many bytes, in each file."""
    root = cache / f"models--{repository.replace('/', '--')}"
    folder, blobs = root / "snapshots" / commit, root / "blobs"
    for each in (folder, blobs, root / "refs"):
        each.mkdir(parents=True, exist_ok=True)
    (root / "refs" / reference).write_text(commit)
    for name, content in files.items():
        blob = blobs / f"{commit[:4]}-{name}"
        blob.write_bytes(bytes(content) if isinstance(content, int) else json.dumps(content).encode())
        (folder / name).symlink_to(blob)
    if partial:
        (blobs / "abc.incomplete").write_bytes(bytes(partial))
    return folder


def index(*files: str, mtp: bool = False) -> dict[str, object]:
    tensors = {f"model.layers.{number}.x": file for number, file in enumerate(files)}
    return {"weight_map": tensors | ({"mtp.fc.weight": files[-1]} if mtp else {})}


def found(name: str) -> LocalModel:
    (model,) = (each for each in local_models()[0] if each.name == name)
    return model


class TestModels:
    def test_the_embedded_one_is_always_there(self) -> None:
        (model,) = local_models()[0]
        assert (model.name, model.folder) == ("demo", embedded_model())
        assert (model.quantization, model.mtp, model.complete) == ("4-bit g64", True, True)
        assert 12e6 < model.nbytes < 16e6

    def test_a_complete_one_is_known_by_its_alias(self, hub_cache: Path) -> None:
        files = {
            "config.json": QUANTISED,
            "model.safetensors.index.json": index("a.safetensors"),
            "a.safetensors": 1000,
        }
        folder = snapshot(hub_cache, CODER, files)
        model = found("coder-4bit")
        assert (model.folder, model.quantization, model.mtp, model.complete) == (
            folder,
            "4-bit g64",
            False,
            True,
        )
        assert model.nbytes == sum(path.stat().st_size for path in folder.iterdir())
        assert cached_repositories() == [CODER]

    @pytest.mark.parametrize(
        ("config", "label"),
        [
            ({"torch_dtype": "bfloat16"}, "bf16"),
            ({"dtype": "float16"}, "fp16"),
            ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
            ({"quantization": {"bits": 99}}, None),
            ({}, None),
        ],
    )
    def test_how_weights_are_stored(
        self, config: dict[str, object], label: str | None, hub_cache: Path
    ) -> None:
        snapshot(hub_cache, "o/m", {"config.json": {"model_type": "qwen3_next"} | config})
        assert found("o/m").quantization == label

    def test_a_head_is_found_in_the_index_and_in_a_file_of_its_own(self, hub_cache: Path) -> None:
        config = {"config.json": QUANTISED}
        snapshot(
            hub_cache, "o/in", config | {"model.safetensors.index.json": index("a.safetensors", mtp=True)}
        )
        snapshot(hub_cache, "o/own", config | {"mtp.safetensors": 10, "model.safetensors": 10})
        assert (found("o/in").mtp, found("o/own").mtp) == (True, True)

    def test_one_that_is_downloaded_only_in_part_says_so_and_counts_what_waits(self, hub_cache: Path) -> None:
        snapshot(hub_cache, "o/m", {"config.json": QUANTISED}, partial=5000)
        model = found("o/m")
        assert not model.complete
        assert model.mtp is None
        assert 5000 < model.nbytes < 6000

    def test_another_revision_is_named_so_that_it_can_be_asked_for(self, hub_cache: Path) -> None:
        files = {"config.json": QUANTISED, "model.safetensors": 10}
        snapshot(hub_cache, CODER, files)
        snapshot(hub_cache, CODER, files, commit=OLDER, reference="v1")
        assert [model.name for model in local_models()[0]] == ["demo", "coder-4bit", f"{CODER}@v1"]
        (hub_cache / f"models--{CODER.replace('/', '--')}" / "refs" / "v1").unlink()
        assert f"{CODER}@{OLDER}" in [model.name for model in local_models()[0]]

    def test_other_models_and_rubbish_are_left_out(self, hub_cache: Path) -> None:
        snapshot(hub_cache, "o/llama", {"config.json": {"model_type": "llama"}, "model.safetensors": 10})
        snapshot(hub_cache, "o/broken", {"config.json": 3})
        (hub_cache / "models--o--empty").mkdir()
        (hub_cache / "models--o--file").write_text("")
        models, unreadable = local_models()
        assert [model.name for model in models] == ["demo"]
        assert unreadable == []

    @pytest.mark.parametrize("part", ["snapshots", f"snapshots/{COMMIT}/config.json", "refs/main"])
    def test_what_cannot_be_read_is_said_and_the_rest_is_listed(
        self, part: str, hub_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("o/m", "o/n"):
            snapshot(hub_cache, name, {"config.json": QUANTISED, "model.safetensors": 10})
        refused = hub_cache / "models--o--m" / part
        # Refused to everybody, where permissions are only to some.
        refused.rename(refused.with_suffix(".away"))
        refused.symlink_to(refused)
        assert "o/n" in cached_repositories()
        for flag in ([], ["--json"]):
            monkeypatch.setattr(sys, "argv", ["qnext", "models", *flag])
            with pytest.raises(SystemExit) as left:
                main()
            out, err = capsys.readouterr()
            assert left.value.code == 0
            assert "demo" in out
            assert "o/n" in out
            assert ("models--o--m cannot be read (Too many levels" in err) == (part != "refs/main")


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (60, "name        weights    MTP     size  used\norg/a-name  4-bit g64  no   1.50 GB  2026-01-02\n"),
        (40, "org/a-name\n  4-bit g64 · MTP no · 1.50 GB ·\n  2026-01-02\n"),
    ],
)
def test_a_name_is_whole_in_any_terminal(width: int, shown: str) -> None:
    facts = {
        "name": "org/a-name",
        "quantization": "4-bit g64",
        "mtp": False,
        "bytes": 1_500_000_000,
        "complete": True,
        "used_at": "2026-01-02T03:04:05",
    }
    told = text(ModelList([facts]), width)
    assert "".join(f"{line.rstrip()}\n" for line in told.splitlines()) == shown


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Conversations."""
    folder = tmp_path / "sessions"
    for name in ("plans", "my talk"):
        (folder / name).mkdir(parents=True)
        (folder / name / "session.json").write_text("{}")
    (folder / "broken off").mkdir()
    return folder


Offered = Callable[[str, str], list[str]]


def environment(words: str, shell: str) -> dict[str, str]:
    """Of the program where a shell asks what may follow."""
    return {
        "_QNEXT_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
        "_TYPER_COMPLETE_ARGS": words,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }


@pytest.fixture
def offered(
    saved: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Offered:
    """What a shell is offered in this process."""
    snapshot(hub_cache, "o/m", {"config.json": QUANTISED})
    monkeypatch.setenv("QNEXT_SESSIONS", str(saved))

    def run(words: str, shell: str) -> list[str]:
        for name, value in environment(words, shell).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["qnext"])
        with pytest.raises(SystemExit):
            main()
        return capsys.readouterr().out.splitlines()

    return run


class TestCompletion:
    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            ("qnext chat --model thinking-", [f"thinking-{bits}bit" for bits in (4, 5, 6, 8)]),
            ("qnext generate --model o/", ["o/m"]),
            ("qnext inspect o", ["o/m"]),
            ("qnext generate --thinking ", ["show", "collapse", "hide"]),
            ("qnext sessions show ", ["my\\ talk", "plans"]),
            ("qnext chat --resume pl", ["plans"]),
            ("qnext config set when-full ", ["stop", "drop"]),
            ("qnext config set when-", ["when-full"]),
            ("qnext config set no-think ", ["true", "false"]),
            ("qnext config un", ["unset"]),
            ("qnext config --", ["--help"]),
            ("qnext --h", ["--help"]),
            ("qnext generate --he", ["--help"]),
            ("qnext generate hello --no-t", ["--no-think"]),
            ("qnext generate --model ./nowhere", []),
            ("qnext chat --temp x --model thinking-4", ["thinking-4bit"]),
            ("qnext generate --top-p ", []),
        ],
    )
    def test_bash_is_offered_what_can_follow(self, words: str, expected: list[str], offered: Offered) -> None:
        assert [line for line in offered(words, "bash") if line] == expected

    def test_the_other_shells_are_offered_the_same_in_their_words(self, offered: Offered) -> None:
        assert '"demo":"the embedded model"' in offered("qnext chat --model dem", "zsh")[0]
        assert '"my talk"' in offered("qnext sessions show my", "zsh")[0]
        assert offered("qnext chat --model dem", "fish") == ["demo\tthe embedded model"]

    def test_nothing_heavy_is_loaded_for_it(self, saved: Path) -> None:
        code = (
            "import sys\nfrom cli.main import main\nsys.argv = ['qnext']\n"
            "heavy = {'mlx', 'transformers', 'tokenizers', 'jinja2', 'numpy', 'pydantic', 'httpx', 'ssl'}\n"
            "try:\n    main()\nfinally:\n    print('loaded:', *heavy & set(sys.modules))"
        )
        variables = environment("qnext chat --model dem", "bash")
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
        )
        assert done.stdout.split() == ["demo", "loaded:"]
