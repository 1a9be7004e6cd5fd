"""What the project promises about itself: documents that are current, imports that are cheap, packages that are whole."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import mlx_qnext

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("[!.]*/*.md")])
HEAVY = [
    "mlx",
    "transformers",
    "mlx_lm",
    "huggingface_hub",
    "tokenizers",
    "jinja2",
    "typer",
    "rich",
    "prompt_toolkit",
]
# What a command that runs needs, and neither a key pressed in a shell nor the program's version.
USED_LATER = ["mlx", "numpy", "tokenizers", "pydantic", "rich.progress", "platformdirs", "cli.talk"]
ONE_MACHINES_FOLDER = re.compile(r"/(?:home|Users|root|work)/\w+")


def run(code: str, **variables: str) -> str:
    """What a fresh interpreter prints."""
    command, env = [sys.executable, "-c", code], {**os.environ, **variables}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout


def loaded_after(statement: str) -> list[str]:
    names = f"[name for name in {HEAVY} if name in sys.modules]"
    return json.loads(run(f"import json, sys\n{statement}\nprint(json.dumps({names}))"))


def python_examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


class TestDocuments:
    def test_the_readme_sets_up_with_exactly_two_commands(self) -> None:
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        set_up = readme.partition("## Set up")[2].partition("\n## ")[0]
        assert re.findall(r"```sh\n(.*?)```", set_up, re.DOTALL) == [
            'pip install uv && uv run qnext generate "What is 47 + 85?"\n',
            "uv run pytest\n",
        ]

    def test_the_readmes_python_runs_and_answers(self) -> None:
        (example,) = python_examples("README.md")
        assert "132" in run(example)

    @pytest.mark.slow
    def test_the_examples_of_the_python_page_run(self) -> None:
        examples = python_examples("docs/python-api.md")
        assert examples
        for example in examples:
            assert run(example)

    def test_the_page_of_commands_is_what_the_commands_say(self) -> None:
        page = runpy.run_path(str(ROOT / "docs" / "generate_cli.py"))["page"]
        assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == page()

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
    def test_every_link_inside_the_project_leads_somewhere(self, page: Path) -> None:
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        assert [link for link in links if not (page.parent / link).exists()] == []

    def test_no_file_names_a_folder_of_one_machine(self) -> None:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
        files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
        texts = {file: file.read_bytes().decode("utf-8", "ignore") for file in files if file.is_file()}
        found = {
            str(file.relative_to(ROOT)): match[0]
            for file, text in texts.items()
            if file.suffix != ".safetensors" and (match := ONE_MACHINES_FOLDER.search(text))
        }
        assert found == {}


class TestImports:
    def test_every_public_name_is_there(self) -> None:
        for name in mlx_qnext.__all__:
            assert getattr(mlx_qnext, name) is not None
        with pytest.raises(AttributeError, match="no_such_name"):
            _ = mlx_qnext.no_such_name

    def test_importing_the_package_loads_nothing(self) -> None:
        assert loaded_after("import mlx_qnext") == []

    def test_the_command_line_loads_neither_mlx_nor_a_tokenizer(self) -> None:
        assert set(loaded_after("import cli.main")) <= {"typer", "rich"}

    @pytest.mark.parametrize(
        ("variables", "said"),
        [
            ({}, "qnext "),
            (
                {"_QNEXT_COMPLETE": "complete_bash", "COMP_WORDS": "qnext chat --mo", "COMP_CWORD": "2"},
                "--model",
            ),
        ],
        ids=["version", "completion"],
    )
    def test_a_start_does_not_wait_for_what_it_does_not_use(
        self, variables: dict[str, str], said: str
    ) -> None:
        printed = run(
            "import sys\n"
            "from cli.main import main\n"
            "sys.argv = ['qnext', '--version']\n"
            f"try:\n    main()\nfinally:\n    print('loaded:', *{set(USED_LATER)} & set(sys.modules))",
            **variables,
        )
        assert printed.startswith(said)
        assert printed.splitlines()[-1].split() == ["loaded:"]

    def test_the_engine_loads_neither_transformers_nor_a_terminal(self) -> None:
        assert set(loaded_after("import mlx_qnext.generate.engine")) <= {"mlx", "tokenizers", "jinja2"}

    def test_mlx_lm_imported_later_is_whole_and_shares_its_classes_with_the_engine(self) -> None:
        said = run(
            "import sys\n"
            "from mlx_qnext import mlx_lm_parts as parts\n"
            "before = 'mlx_lm' in sys.modules, 'transformers' in sys.modules\n"
            "import mlx_lm\n"
            "from mlx_lm.models.cache import ArraysCache, KVCache\n"
            "print(before, callable(mlx_lm.load), KVCache is parts.KVCache, ArraysCache is parts.ArraysCache)"
        )
        assert said.split() == ["(False,", "False)", "True", "True", "True"]


@pytest.mark.slow
def test_the_wheel_holds_the_program_and_the_embedded_weights_and_nothing_else(tmp_path: Path) -> None:
    # `uv run` says where it lies; it need not be on the path.
    command = [os.environ.get("UV", "uv"), "build", "--wheel", "--quiet", "--out-dir", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True)
    names = [Path(name) for name in zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()]
    rooms = {name.parts[0] for name in names if not name.parts[0].endswith(".dist-info")}
    assert rooms == {"mlx_qnext", "cli", "quantize"}
    weights = {name.name for name in names if name.is_relative_to("mlx_qnext/demo/weights")}
    assert {"config.json", "model.safetensors", "mtp.safetensors", "tokenizer.json"} <= weights
