"""Errors that are shown as one sentence, without a traceback."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave is wrong; the message says what, and what would be right."""


class TrainingFailed(RuntimeError):
    """A run could not go on (its loss diverged, ...); the message says why. Recorded in result.json."""


class StorageFailed(TrainingFailed):
    """The disk did not take what was to be written; what was there before is intact. The message says what to do."""


def nearest(name: str, names: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` for the valid name nearest to ``name``, or nothing where none is near."""
    by_letters = {str(n).lower(): str(n) for n in names}
    near = difflib.get_close_matches(str(name).lower(), by_letters, n=1, cutoff=0.5)
    return f" (did you mean '{by_letters[near[0]]}'?)" if near else ""
