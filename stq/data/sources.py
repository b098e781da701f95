"""Where small image sets come from: each function returns ``Arrays``, uint8 images (N, C, H, W) and int64 labels."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, nearest


@dataclass(frozen=True)
class Arrays:
    """Training and test images; ``val`` is None where a split of the training images has to serve.

    known: the well-known data set that this is for certain, where its library has checked the files.
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor] | None = None
    known: str | None = None


def digits(test_fraction: float = 0.25, split_seed: int = 0) -> Arrays:
    """The 1,797 handwritten digits of 8 x 8 pixels that ship inside scikit-learn (UCI, Alpaydin and Kaynak 1998).

    They come without a test set: a fixed stratified quarter is one, whatever the seed of the run.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 1, 8, 8) * 255 / 16).round().astype(np.uint8)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=test_fraction, stratify=labels, random_state=split_seed
    )
    images, labels = torch.from_numpy(images), torch.from_numpy(labels).long()
    return Arrays((images[train], labels[train]), (images[test], labels[test]))


def torchvision_set(name: str, path: str, download: bool = True) -> Arrays:
    """FashionMNIST, CIFAR10 or any torchvision data set that keeps its images in memory.

    path: torchvision's root folder. Raises InputError for another name, or if the data are not there and cannot be
    downloaded.
    """
    from torchvision import datasets

    kind = getattr(datasets, name, None)
    if not (isinstance(kind, type) and issubclass(kind, datasets.VisionDataset)):
        raise InputError(f"torchvision has no data set '{name}'{nearest(name, datasets.__all__)}")
    checked = hasattr(kind, "_check_integrity")  # torchvision compares the files with their published sums

    def read(train: bool) -> tuple[Tensor, Tensor]:
        data = kind(root=path, train=train, download=download)
        images = torch.as_tensor(data.data)
        images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2)
        return images.contiguous(), torch.as_tensor(data.targets).long()

    try:
        return Arrays(read(True), read(False), known=name.lower() if checked else None)
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{name} is not in data.path={path} and could not be downloaded there ({reason})") from error


def npz(path: str | None) -> Arrays:
    """An .npz file with MedMNIST's keys: train_images (N, H, W[, C]) uint8, train_labels (N[, 1]), the same for test.

    val_images and val_labels are used where present. Raises InputError for a missing file or key or a wrong shape.
    """
    if path is None or not Path(path).is_file():
        raise InputError(
            f"data.path={path} is not a file: give an .npz with train_images, train_labels, test_images, ..."
        )
    arrays = _read_npz(path)

    def read(split: str) -> tuple[Tensor, Tensor]:
        for key in (f"{split}_images", f"{split}_labels"):
            if key not in arrays:
                raise InputError(f"data.path={path} has no '{key}'; it has {', '.join(arrays)}")
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"].reshape(-1)
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or len(images) != len(labels) or not len(labels):
            raise InputError(
                f"{split}_images of data.path={path} is {images.dtype} of shape {images.shape} for {len(labels)} "
                "labels; it must be uint8 of shape (N, H, W) or (N, H, W, C) with one label an image"
            )
        if images.ndim == 4 and images.shape[3] > images.shape[1]:
            raise InputError(
                f"{split}_images of data.path={path} has shape {images.shape}, which as (N, H, W, C) has more channels "
                "than rows: put the channels last"
            )
        if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
            found = labels.dtype if not np.issubdtype(labels.dtype, np.integer) else f"as low as {labels.min()}"
            raise InputError(f"{split}_labels of data.path={path} are {found}: they must be whole numbers from 0 up")
        images = torch.from_numpy(images)
        images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2)
        return images.contiguous(), torch.from_numpy(labels.astype(np.int64))

    splits = {split: read(split) for split in ("train", "test", "val") if split != "val" or "val_images" in arrays}
    seen = set(splits["train"][1].unique().tolist())
    if gaps := set(range(len(seen))) - seen:
        raise InputError(
            f"train_labels of data.path={path} reach {max(seen)}, but none is {min(gaps)}: number classes without gaps"
        )
    for split, (_, labels) in splits.items():
        if unseen := set(labels.unique().tolist()) - seen:
            raise InputError(f"{split}_labels of data.path={path} hold {min(unseen)}, which train_labels do not")
    return Arrays(**splits)


def _read_npz(path: str) -> dict[str, np.ndarray]:
    """All arrays of the file. Raises InputError for what is no whole .npz of plain arrays."""
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise InputError(f"data.path={path} is a single array (.npy), not an .npz")
        with archive:
            return {key: archive[key] for key in archive.files}
    except InputError:
        raise
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"data.path={path} is not an .npz of plain arrays ({error})") from None
