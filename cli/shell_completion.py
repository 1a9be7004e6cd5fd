"""What a shell offers to complete: called while a key is pressed, so nothing here loads MLX or reads weights."""

from __future__ import annotations

import os

import typer

from mlx_qnext.errors import QnextError

_BASH = "complete_bash"
_VARIABLE = "_QNEXT_COMPLETE"


def complete_model(incomplete: str) -> list[tuple[str, str]]:
    """Aliases, and what is in the hub's cache. Where none of them fits, shells offer folders."""
    from cli.local_models import cached_repositories
    from mlx_qnext.hub import DEMO, REPOSITORIES

    known = {DEMO: "the embedded model", **REPOSITORIES}
    aliased = set(REPOSITORIES.values())
    cached = {name: "in the cache" for name in cached_repositories() if name not in aliased}
    return [(name, said) for name, said in {**known, **cached}.items() if name.startswith(incomplete)]


def complete_session(incomplete: str) -> list[str]:
    """Saved conversations."""
    from mlx_qnext.folders import sessions_folder

    try:
        names = sorted(path.parent.name for path in sessions_folder().glob("*/session.json"))
    except (OSError, RuntimeError):
        return []
    # Bash takes the text as it would be typed; the other shells quote it.
    if os.environ.get(_VARIABLE) == _BASH:
        names = [name.replace(" ", "\\ ") for name in names]
    return [name for name in names if name.startswith(incomplete)]


def complete_key(incomplete: str) -> list[str]:
    """Settings."""
    from cli.config_settings import settings

    return [key for key in settings() if key.startswith(incomplete)]


def complete_value(call: typer.Context, incomplete: str) -> list[str]:
    """What the setting named before it may be, where that can be listed."""
    from cli.config_settings import find

    try:
        setting = find(str(call.params.get("key")))
    except QnextError:
        return []
    if setting.key == "model":
        return [name for name, _ in complete_model(incomplete)]
    values = setting.choices or ({bool: ("true", "false")}.get(setting.kind, ()))
    return [value for value in values if value.startswith(incomplete)]


def complete_draft(incomplete: str) -> list[str]:
    """Depths of drafts."""
    return [value for value in ("auto", "0", "1", "2", "3", "4") if value.startswith(incomplete)]


def complete_kv_bits(incomplete: str) -> list[str]:
    """Bits of keys and values."""
    return [value for value in ("16", "8", "4") if value.startswith(incomplete)]
