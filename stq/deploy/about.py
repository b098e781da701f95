"""What a file says of the network in it: how to prepare an image, its classes, how it was made."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError


@dataclass(frozen=True)
class About:
    """Carried by every exported file.

    mean, std: for each channel, of pixels from 0 to 1: the network takes ``(pixel / 255 - mean) / std``, channels
    first. class_names: in the order of the scores. pixels: the ONNX formats take uint8 images 0 to 255 and prepare
    them by their first nodes (mean and std must be given). facts: anything else, such as method, bits, commit.

    Raises InputError for means and deviations of different length, a deviation of 0, or pixels without them.
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    class_names: Sequence[str] = ()
    pixels: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise InputError("mean and std are given together, one of each a channel")
        if not all(math.isfinite(number) for number in (*(self.mean or ()), *(self.std or ()))):
            raise InputError(f"mean and std are finite numbers, not {list(self.mean)} and {list(self.std)}")
        if any(deviation <= 0 for deviation in self.std or ()):
            raise InputError("std holds a number that is not above 0")
        if self.pixels and not self.mean:
            raise InputError("uint8 images need the mean and std of the data, which are not known here")

    def entries(self) -> dict[str, str]:
        """Keys that begin with ``stq.``, and their values as text; what is no text is JSON."""
        found: dict[str, Any] = {**self.facts}
        if self.mean is not None:
            found["preprocessing"] = {
                "mean": list(self.mean),
                "std": list(self.std),
                "range": 255,
                "layout": "NCHW",
                "inside": self.pixels,
            }
        if self.class_names:
            found["class_names"] = list(self.class_names)
        return {f"stq.{key}": value if isinstance(value, str) else json.dumps(value) for key, value in found.items()}


def checksum(content: bytes) -> str:
    """Of a file's network: SHA-256 of its bytes without what is said about it."""
    return hashlib.sha256(content).hexdigest()
