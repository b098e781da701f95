"""Tables as text: one module a format, each with ``render(sheets, apart) -> str``."""

from __future__ import annotations

from importlib import import_module

FORMATS = {"terminal": "txt", "markdown": "md", "latex": "tex", "csv": "csv"}


def render(name: str, sheets, apart) -> str:
    """The sheets, and (heading, runs) of what is in no table, in the format ``name``, a key of ``FORMATS``."""
    return import_module(f".{name}", __name__).render(sheets, apart)
