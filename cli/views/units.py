"""Quantities as people read them."""

from __future__ import annotations


def size(nbytes: int) -> str:
    """Bytes in decimal units, as disks and Macs are sold."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.2f} MB"


def count(parameters: int) -> str:
    """Parameters in billions or millions."""
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.2f} M"


def percent(share: float) -> str:
    """A share in whole percent; 0 % means none and 100 % all."""
    return f"{round(100 * share) if share in (0, 1) else min(max(round(100 * share), 1), 99)} %"


def seconds(value: float) -> str:
    """A duration: 0.13 s, 12 s, 3 min 5 s."""
    if value < 10:
        return f"{value:.2g} s" if value < 1 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def rate(tps: float) -> str:
    """Tokens per second: 91.2 tok/s, 0.21 tok/s."""
    return f"{tps:.2g} tok/s" if tps < 1 else f"{tps:.1f} tok/s"


def tokens(count: int) -> str:
    """How many tokens, with the thousands apart: 262,144."""
    return f"{count:,}"


def token_count(count: int) -> str:
    """The same, and what is counted: 1 token, 262,144 tokens."""
    return f"{tokens(count)} token{'' if count == 1 else 's'}"
