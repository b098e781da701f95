"""Lightning data modules. Imported when first used: what only asks for a fingerprint needs no torch."""

from importlib import import_module

_HOMES = {"ArrayDataModule": "arrays", "TimmDataModule": "folders"}

__all__ = ["ArrayDataModule", "TimmDataModule"]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'stq.data' has no attribute '{name}'")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
