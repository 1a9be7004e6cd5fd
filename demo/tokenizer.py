"""Trains the tokenizer on generated chats: byte-level BPE, one token a digit, 4096 tokens.

    python -m demo.tokenizer FOLDER

writes tokenizer.json, tokenizer_config.json and chat_template.jinja, which belong to the checkpoint.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from demo.capitals import CAPITALS
from demo.chatml import pieces
from demo.conversation import make
from demo.words import CITIES, EVERYDAY, NAMES

VOCABULARY = 4096
END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END_OF_TEXT, START, END)
MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
TEMPLATE = Path(__file__).parent / "chat_template.jinja"

# Words with the character before them, single digits, runs of punctuation, line ends, spaces.
_SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CHATS, _SEED = 40_000, 7


def _texts() -> Iterator[str]:
    """Yield what the vocabulary is learned from: chats without their marks, and all words and names."""
    rng = random.Random(_SEED)
    for index in range(_CHATS):
        chat = make(rng)
        if chat.tools and index % 4:
            continue
        text = "".join(piece for piece, _ in pieces(chat))
        for mark in (*SPECIAL, *MARKS):
            text = text.replace(mark, "\n")
        yield text
    for _ in range(20):
        yield " ".join((*EVERYDAY, *NAMES, *CITIES, *CAPITALS, *CAPITALS.values()))


def train() -> Tokenizer:
    """Return the trained tokenizer; the nine marks are its last tokens."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_SPLIT), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL) - len(MARKS),
        min_frequency=4,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=14,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in SPECIAL])
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in MARKS])
    return tokenizer


def token_id(tokenizer: Tokenizer, mark: str) -> int:
    """Return the id of a mark. Raises ValueError if the vocabulary lacks it."""
    found = tokenizer.token_to_id(mark)
    if found is None:
        raise ValueError(f"the tokenizer has no token {mark}")
    return found


def configuration(tokenizer: Tokenizer) -> dict[str, object]:
    """Return tokenizer_config.json as other loaders of Qwen checkpoints read it."""
    added = {
        str(token_id(tokenizer, mark)): {
            "content": mark,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": mark in SPECIAL,
        }
        for mark in (*SPECIAL, *MARKS)
    }
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": [START, END],
        "bos_token": None,
        "chat_template": TEMPLATE.read_text(),
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "errors": "replace",
        "model_max_length": 4096,
        "pad_token": END_OF_TEXT,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def main() -> None:
    """Train the tokenizer and write its files."""
    parser = argparse.ArgumentParser(description="Train the demo model's tokenizer.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = json.dumps(configuration(tokenizer), indent=1, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(settings)
    shutil.copy(TEMPLATE, folder / TEMPLATE.name)
    print(f"{tokenizer.get_vocab_size()} tokens in {folder}")


if __name__ == "__main__":
    main()
