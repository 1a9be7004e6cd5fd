"""What `qnext inspect` shows of a model on the hub, without downloading it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from builders import write_hf_checkpoint
from fakes.hub import COMMIT, serving
from fp8_builder import write_fp8_checkpoint
from huggingface_hub import constants
from piped import stdin_of

from cli.main import main
from mlx_qnext import hub, remote
from mlx_qnext.errors import CheckpointError, MemoryLimitError, UsageError
from mlx_qnext.experts import memory

REPO = "qwen/tiny"
SHARD = "model-00002-of-00003.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    return write_hf_checkpoint(tmp_path_factory.mktemp("published"), shards=3)


@pytest.fixture
def server(published, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_BYTES", 1000)
    with serving(
        {REPO: {path.name: path.read_bytes() for path in published.iterdir()}}, tmp_path / "cache"
    ) as fake:
        yield fake


def inspect(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["qnext", "inspect", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    code = left.value.code
    assert isinstance(code, int)
    return code, *capsys.readouterr()


def test_a_repository_is_shown_from_its_headers_and_leaves_nothing(
    server, published, tmp_path, monkeypatch, capsys
):
    local = inspect(monkeypatch, capsys, str(published), "--json", "--memory", "2G")
    there = inspect(monkeypatch, capsys, REPO, "--json", "--memory", "2G")
    assert there[0] == 0
    assert there[2] == ""
    address = {"path": f"hf://{REPO}@{COMMIT}"}
    shown, expected = json.loads(there[1]), json.loads(local[1]) | address
    # What is free changes from one moment to the next.
    assert shown.pop("machine").keys() == expected.pop("machine").keys()
    assert shown == expected
    assert not Path(constants.HF_HUB_CACHE).exists()
    assert server.sent_bytes[SHARD] < 50_000
    assert inspect(monkeypatch, capsys, REPO)[1].startswith(f"hf://{REPO}@{COMMIT}\n")


def test_a_cached_one_is_shown_by_its_folder(server, monkeypatch, capsys):
    snapshot = hub.resolve(REPO)
    server.status = 503
    code, out, _ = inspect(monkeypatch, capsys, REPO, "--json")
    assert (code, json.loads(out)["path"]) == (0, str(snapshot))


def test_what_is_wrong_there_is_one_line(server, monkeypatch, capsys):
    server.repos[REPO][SHARD] = server.repos[REPO][SHARD][:-1]
    code, out, err = inspect(monkeypatch, capsys, REPO)
    assert (code, out) == (CheckpointError.exit_code, "")
    assert err.startswith(f"qnext: {REPO}/{SHARD} is cut short")
    assert err.count("\n") == 1


class TestThePlanOfMemory:
    def plan(self, monkeypatch, capsys, *arguments: str) -> dict:
        code, out, _ = inspect(monkeypatch, capsys, *arguments, "--json")
        assert code == 0
        return json.loads(out)["plan"]

    def test_it_is_for_what_is_asked_even_of_another_machine(self, published, monkeypatch, capsys):
        plan = self.plan(monkeypatch, capsys, str(published), "--memory", "9000G", "--context", "100")
        assert (plan["asked"], plan["given"], plan["context"]) == (9000 * 10**9, 9000 * 10**9, 100)
        assert (plan["fits"], plan["regime"], plan["share"]) == (True, "resident", 1.0)
        assert plan["slots"] == {"least": 4, "most": 4, "of": 4}
        assert plan["bytes"]["total"] == sum(n for part, n in plan["bytes"].items() if part != "total")

    def test_without_asking_it_is_for_what_this_machine_can_spare(self, published, monkeypatch, capsys):
        monkeypatch.setattr(memory, "allotted_bytes", lambda asked: 3_000_000_000)
        plan = self.plan(monkeypatch, capsys, str(published))
        assert (plan["asked"], plan["given"], plan["context"]) == (None, 3_000_000_000, 512)

    def test_a_model_that_cannot_fit_is_shown_with_the_smallest_that_works(
        self, published, monkeypatch, capsys
    ):
        plan = self.plan(monkeypatch, capsys, str(published), "--memory", "1M")
        assert plan["fits"] is False
        assert plan["bytes"]["total"] <= plan["smallest"]
        assert self.plan(monkeypatch, capsys, str(published), "--memory", str(plan["smallest"]))["fits"]
        assert plan["largest_context"] is None
        told = inspect(monkeypatch, capsys, str(published), "--memory", "1M")[1]
        assert "Too little" in told
        assert "Not even a context of 256 tokens fits." in told

    def test_the_longest_context_that_fits_is_shown(self, monkeypatch, capsys):
        least = self.plan(monkeypatch, capsys, "demo", "--memory", "1M", "--context", "1k")
        assert (least["context"], least["fits"]) == (1024, False)
        plan = self.plan(monkeypatch, capsys, "demo", "--memory", str(least["smallest"]))
        assert 1024 <= plan["largest_context"] < 4096
        assert f"at most {plan['largest_context']} tokens" in self.refused(
            monkeypatch, capsys, least["smallest"]
        )

    def refused(self, monkeypatch, capsys, memory: int) -> str:
        given = ["--memory", str(memory), "--context", "4k", "hi"]
        monkeypatch.setattr(sys, "argv", ["qnext", "generate", *given])
        # Beside a prompt it is read, and the test runner's own refuses to be.
        with stdin_of(), pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == MemoryLimitError.exit_code
        return capsys.readouterr().err

    def test_quantised_keys_and_values_take_less(self, monkeypatch, capsys):
        plain, packed = (
            self.plan(monkeypatch, capsys, "demo", "--memory", "2G", "--kv-bits", bits)
            for bits in ("16", "8")
        )
        assert (plain["kv_bits"], packed["kv_bits"]) == (None, 8)
        assert packed["bytes"]["cache"] < plain["bytes"]["cache"]

    def test_weights_that_are_not_run_here_have_none(self, tmp_path, monkeypatch, capsys):
        folder, _ = write_fp8_checkpoint(tmp_path / "fp8")
        assert self.plan(monkeypatch, capsys, str(folder)) is None
        assert inspect(monkeypatch, capsys, str(folder))[0] == 0

    @pytest.mark.parametrize(
        ("arguments", "phrase"),
        [
            (("--memory", "8X"), "'8X' is no size of memory"),
            (("--context", "0"), "context of 0 tokens"),
            (("--context", "513"), "513 tokens is asked for and this model has 512"),
            (("--context", "32q"), "'32q', expected auto, or tokens such as 8192 or 32k"),
            (("--context", "-1"), "'-1', expected auto"),
            (("--kv-bits", "5"), "--kv-bits is 5, expected 16, 8 or 4"),
            (("--kv-bits", "8"), "no whole groups of 64"),
        ],
    )
    def test_what_cannot_be_meant_is_one_line(self, published, monkeypatch, capsys, arguments, phrase):
        code, out, err = inspect(monkeypatch, capsys, str(published), *arguments)
        assert (code, out, err.count("\n")) == (UsageError.exit_code, "", 1)
        assert phrase in err
