"""What a data set holds, as a short hash, and which well-known data set it is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from ..storage.content_hash import HashCache, digest, file_digest, file_stamp

_SAMPLE = 64  # files of a split whose content is read, where it has more than
_READ_WHOLE = 2000
_MOST_FILES = 10_000  # of a folder whose files are looked at one by one
# arrays, by their fingerprint (train and test as torchvision and scikit-learn give them)
KNOWN_ARRAYS: dict[str, str] = {
    "ea4e59632db99428e2e45725ea84afbb": "cifar10",
    "2a7c9991511368c5a713081db7539178": "fashion_mnist",
    "dd048cc4146d7397459afd418070b5bd": "digits",
}
# name: pixels of the images that published numbers are about
PUBLISHED_PIXELS = {"cifar10": 32, "cifar100": 32, "fashion_mnist": 28, "imagenet": 224}


class _ArrayLike(Protocol):
    shape: tuple[int, ...]

    def numpy(self) -> Any:
        """As a NumPy array."""


def arrays_fingerprint(splits: Iterable[tuple[_ArrayLike, _ArrayLike] | None]) -> str:
    """Of (images, labels) of each split, uint8 (N, C, H, W) and int64 (N,); None for a split that is not there."""
    parts: list[Any] = []
    for split in splits:
        for tensor in split or ():
            array = tensor.contiguous().numpy()
            parts += [str(array.dtype), list(array.shape), memoryview(array).cast("B")]
        parts.append("end of split")
    return digest(*parts)


def folder_fingerprint(samples: Mapping[str, Sequence[Path]], root: Path) -> str:
    """Of image files by split: their names below ``root``, their sizes, and the content of some (of all if few)."""
    parts: list[Any] = []
    for split, paths in samples.items():
        ordered = sorted(paths)
        parts += [split, [[str(path.relative_to(root)), path.stat().st_size] for path in ordered]]
        step = 1 if len(ordered) <= _READ_WHOLE else len(ordered) // _SAMPLE
        parts.append([file_digest(path) for path in ordered[::step]])
    return digest(*parts)


def is_imagenet(classes: Iterable[str], test_images: int) -> bool:
    """ImageNet-1k has 1,000 classes named by synsets, and 50,000 validation images."""
    names = list(classes)
    return len(names) == 1000 and test_images == 50_000 and all(re.fullmatch(r"n\d{8}", name) for name in names)


def stamp(section: Mapping[str, Any]) -> Any:
    """What tells without reading the data of a configuration that they are those of before; None where nothing does."""
    path = section.get("path")
    facts: list[Any] = [section, version("scikit-learn"), version("torchvision")]
    if path is None:
        return facts
    place = Path(str(path))
    if place.is_file():
        return [*facts, file_stamp(place)]
    if not place.is_dir():
        return None if "source" in section else facts
    if "source" in section:  # torchvision's root, which other data sets may share
        files = [file for file in place.rglob("*") if file.is_file()][: _MOST_FILES + 1]
        return None if len(files) > _MOST_FILES else [*facts, sorted(map(file_stamp, files))]
    return [*facts, digest(sorted(_stamps(place)))]  # looks at every file, and reads none


def _stamps(folder: Path) -> Iterator[list[Any]]:
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _stamps(Path(entry.path))
        else:
            found = entry.stat()
            yield [entry.path, found.st_size, found.st_mtime_ns]


def fingerprint_cache(float_dir: str | Path) -> HashCache:
    """Where fingerprints are remembered: beside the float baselines, which are named with them."""
    return HashCache(Path(float_dir) / "fingerprints.json")


def remembered(section: Mapping[str, Any], cache: HashCache) -> str | None:
    """The fingerprint that was found for this data section before; None where the data must be looked at."""
    found = stamp(section)
    return None if found is None else cache.get(found)
