"""Writes vectors.json: distributions as transformers' logits processors leave them. Needs torch and transformers.

python tests/vectors/sampling/generate.py
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import torch
import transformers
from transformers.generation import logits_process as lp

VOCABULARY = 40
GRID = {
    "temperature": (0.6, 1.0, 1.7),
    "top_k": (0, 1, 5, 40),
    "top_p": (1.0, 0.95, 0.5, 0.05),
    "min_p": (0.0, 0.1, 0.6),
    "repetition_penalty": (1.0, 1.3, 0.8),
}


def distribution(logits: torch.Tensor, text: list[int], values: dict[str, float]) -> list[float]:
    """The probabilities that transformers' `generate` would sample from."""
    ids, scores = torch.tensor([text]), logits[None]
    if values["repetition_penalty"] != 1.0:
        scores = lp.RepetitionPenaltyLogitsProcessor(values["repetition_penalty"])(ids, scores)
    scores = lp.TemperatureLogitsWarper(values["temperature"])(ids, scores)
    if values["top_k"]:
        scores = lp.TopKLogitsWarper(int(values["top_k"]))(ids, scores)
    if values["top_p"] < 1.0:
        scores = lp.TopPLogitsWarper(values["top_p"])(ids, scores)
    if values["min_p"]:
        scores = lp.MinPLogitsWarper(values["min_p"])(ids, scores)
    return scores.softmax(-1)[0].tolist()


def main() -> None:
    """One random case for each point of the grid."""
    torch.manual_seed(0)
    cases = []
    for point in itertools.product(*GRID.values()):
        values = dict(zip(GRID, point))
        logits = (torch.randn(VOCABULARY) * 3).round(decimals=4)
        text = torch.randint(0, VOCABULARY, (8,)).tolist()
        probabilities = [round(p, 7) for p in distribution(logits, text, values)]
        cases.append({**values, "logits": [round(x, 4) for x in logits.tolist()], "text": text, "probabilities": probabilities})
    path = Path(__file__).with_name("vectors.json")
    path.write_text(json.dumps({"transformers": transformers.__version__, "cases": cases}) + "\n")


if __name__ == "__main__":
    main()
