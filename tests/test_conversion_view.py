"""What a conversion shows, at fixed widths and with a clock that is set by hand, against text that is checked in."""

from __future__ import annotations

from pathlib import Path

import pytest
from screens import Terminal
from test_views import Clock, check, console

from cli.views.conversion import ConversionView, outcome, outline
from mlx_qnext.quantization import Precision
from quantize.convert import Step
from quantize.evaluate import Quality
from quantize.facts import Facts
from quantize.loss import Loss
from quantize.recipe import Recipe

FACTS = Facts(
    source="Qwen/Qwen3-Next-80B-A3B-Thinking@c0ffee123456",
    target=None,
    recipe=Recipe("4bit", "every matrix at 4 bits", Precision(4, 64)),
    losses={
        "model.layers.0.mlp.switch_mlp.up_proj": Loss(0.0075, 1.0),
        "model.layers.0.mlp.gate": Loss(0.00003, 1.0),
        "lm_head": Loss(0.0005, 1.0),
    },
    quality=Quality(16384, 0.0123456, 0.234567, 0.9621, 5.4321, 5.4, 0.91, 0.93),
    sizes={"experts": 43_500_000_000, "attention": 0, "embeddings": 500_000_000, "mtp": 930_000_000},
    precisions={
        "experts": ("4-bit g64",),
        "attention": (),
        "embeddings": ("6-bit g64",),
        "mtp": ("4-bit g64", "8-bit g64"),
    },
    bits_per_weight=4.52,
    has_mtp=True,
)
STEPS = [
    Step(
        done,
        160_000_000_000,
        min(done + 8_000_000_000, 160_000_000_000),
        f"model.layers.{n}.mlp.switch_mlp.up_proj.weight",
    )
    for n, done in enumerate(range(0, 160_000_000_001, 8_000_000_000))
]


@pytest.mark.parametrize("width", [40, 80])
def test_what_is_planned_and_what_was_made(width: int) -> None:
    screen, file = console(width, color=False)
    screen.print(outline(FACTS, 160_000_000_000, 52_930_000_000))
    screen.print(outcome(FACTS, Path("qwen-4bit")))
    check(f"conversion-{width}", file.getvalue())


def test_off_a_terminal_each_tenth_is_a_line_with_rate_and_time_left() -> None:
    screen, file = console(80, terminal=False)
    with ConversionView(screen, clock=Clock()) as view:
        for step in STEPS:
            view.update(step)
    check("conversion-plain", file.getvalue())


def test_where_no_cursor_can_be_moved_it_is_those_lines_too() -> None:
    terminal = Terminal(80)
    dumb = terminal.console(_environ={"TERM": "dumb"}, color_system=None)
    with ConversionView(dumb, clock=Clock()) as view:
        for step in STEPS[:3]:
            view.update(step)
    assert terminal.rows()[0].startswith("10 %: 20.00 GB of 160.00 GB")
    assert "\x1b" not in terminal.written


def test_on_a_terminal_the_bar_names_the_tensor_and_leaves_no_trace() -> None:
    screen, file = console(120)
    with ConversionView(screen, clock=Clock()) as view:
        for step in STEPS[:3]:
            view.update(step)
    assert "model.layers.2.mlp.switch_mlp" in file.getvalue()
    assert "160.0 GB" in file.getvalue()
    assert file.getvalue().endswith("\x1b[2K")


def test_a_run_that_goes_on_counts_from_where_it_began() -> None:
    screen, file = console(80, terminal=False)
    with ConversionView(screen, clock=Clock()) as view:
        for step in STEPS[10:13]:
            view.update(step)
    assert file.getvalue().startswith("60 %: 100.00 GB of 160.00 GB, 32.00 GB/s, 1.9 s left")
