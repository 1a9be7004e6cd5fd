"""What the project promises about itself: documents that are current, imports that are cheap, packages that are whole."""

from __future__ import annotations

import importlib
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import mlx_qnext

ROOT = Path(__file__).parent.parent
HEAVY = ["mlx", "transformers", "mlx_lm", "huggingface_hub", "tokenizers", "jinja2", "typer", "rich"]


def loaded_after(statement: str) -> list[str]:
    code = f"import sys\n{statement}\nprint([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return eval(done.stdout)  # noqa: S307 - our own list of names


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "generate_cli.py"))["page"]
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == page()


def test_the_readme_sets_up_with_its_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert 'pip install uv && uv run qnext generate "What is 47 + 85?"' in readme
    assert "uv run pytest\n" in readme


def test_every_public_name_is_there() -> None:
    for name in mlx_qnext.__all__:
        assert getattr(mlx_qnext, name) is not None
    with pytest.raises(AttributeError):
        _ = mlx_qnext.no_such_name


def test_importing_the_package_loads_nothing() -> None:
    assert loaded_after("import mlx_qnext") == []


def test_the_engine_loads_neither_transformers_nor_a_terminal() -> None:
    assert set(loaded_after("import mlx_qnext.generate.engine")) <= {"mlx", "tokenizers", "jinja2"}


def test_mlx_lm_imported_later_shares_its_classes_with_the_engine() -> None:
    parts = importlib.import_module("mlx_qnext.mlx_lm_parts")
    whole = importlib.import_module("mlx_lm.models.cache")
    assert importlib.import_module("mlx_lm").load is not None
    assert whole.KVCache is parts.KVCache
    assert whole.ArraysCache is parts.ArraysCache


@pytest.mark.slow
def test_the_wheel_holds_the_program_and_the_embedded_weights_and_nothing_else(tmp_path: Path) -> None:
    subprocess.run(["uv", "build", "--wheel", "--quiet", "--out-dir", tmp_path], cwd=ROOT, check=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {
        "mlx_qnext",
        "cli",
        "quantize",
    }
    weights = {Path(name).name for name in names if name.startswith("mlx_qnext/demo/weights/")}
    assert {"config.json", "model.safetensors", "mtp.safetensors", "tokenizer.json"} <= weights
