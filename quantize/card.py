"""The model card: what a stranger who finds the folder has to know."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from quantize.facts import Facts
from quantize.loss import by_part, worst


def card(facts: Facts) -> str:
    """The text of README.md. It depends on what was made alone: the same weights have the same card."""
    source, _, commit = facts.source.partition("@")
    return "\n".join(
        [
            "---",
            "library_name: mlx",
            "pipeline_tag: text-generation",
            "tags: [mlx, qwen3_next]",
            *([f"base_model: {source}"] if "/" in source else []),
            "---",
            "",
            f"# {source.rpartition('/')[2]}, {facts.recipe.name}",
            "",
            f"Made by `qnext quantize` from {source}{f' at {commit}' if commit else ''}, by the recipe "
            f"{facts.recipe.name}: {facts.recipe.description or 'without a description'}."
            + (f" The trunk is that of {facts.target}, as it was." if facts.target else ""),
            "",
            f"{facts.total_bytes / 1e9:.2f} GB, {facts.bits_per_weight:.2f} bits a weight. "
            + ("The MTP head is in `mtp.safetensors`." if facts.has_mtp else "There is no MTP head."),
            "",
            *_table(("part", "size", "precision", "relative error"), _parts(facts)),
            "",
            "Relative error: the root mean square of what rounding changed, over that of the weights. These modules lost most:",
            "",
            *_table(
                ("module", "relative error"),
                [(f"`{n}`", _percent(loss.relative)) for n, loss in worst(facts.losses)],
            ),
            *_quality(facts),
            "",
            "```sh",
            "qnext chat --model .",
            "qnext inspect --verify .",
            "```",
            "",
            "The folder is in the MLX layout: mlx-lm and what stands on it load it too.",
            "",
        ]
    )


def _parts(facts: Facts) -> Iterable[Sequence[str]]:
    losses = by_part(facts.losses)
    for part, nbytes in facts.sizes.items():
        if nbytes:
            error = _percent(losses[part].relative) if part in losses else "–"
            yield part, f"{nbytes / 1e6:,.1f} MB", ", ".join(facts.precisions[part]), error
    yield "all", f"{facts.total_bytes / 1e6:,.1f} MB", "", _percent(facts.loss.relative)


def _quality(facts: Facts) -> list[str]:
    quality = facts.quality
    if quality is None:
        return []
    rows = [
        ("KL divergence, mean", f"{quality.kl:.5f} nats"),
        ("KL divergence, 99th percentile", f"{quality.kl_p99:.5f} nats"),
        ("same likeliest token", f"{100 * quality.same_top:.2f} %"),
        ("perplexity", f"{quality.perplexity:.4f} (source: {quality.source_perplexity:.4f})"),
    ]
    if quality.mtp_agreement is not None and quality.source_mtp_agreement is not None:
        agreement = (
            f"{100 * quality.mtp_agreement:.2f} % (source: {100 * quality.source_mtp_agreement:.2f} %)"
        )
        rows.append(("MTP head and trunk agree", agreement))
    return ["", f"Against the source, over {quality.tokens:,} tokens:", "", *_table(("", ""), rows)]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def _percent(share: float) -> str:
    return f"{100 * share:.3f} %"
