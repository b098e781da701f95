"""Any data set that ``timm.data.create_dataset`` reads: image folders, and hfds/, wds/, tfds/ for what fits no disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from timm.data import create_dataset, create_transform
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from ..errors import InputError
from ..storage.content_hash import digest
from .fingerprint import folder_fingerprint, is_imagenet
from .loaders import cores, training_loader


class TimmDataModule(pl.LightningDataModule):
    """label: what tables call the data; None takes ``name``, or for a folder its name (or imagenet, where it is that).
    name: "" for an ImageFolder at ``path`` (with ``train`` and ``val`` inside), else timm's name (``hfds/...``).

    train_split, val_split, test_split: split names; val_split None holds val_fraction of the training images out by
    split_seed (impossible for streams: name one). image_size: pixels. transforms: further arguments of
    ``timm.data.create_transform`` in training (auto_augment, re_prob, scale, ...). num_classes: None to count the
    folders. workers: processes that load; None takes as many as there are cores (what is drawn depends on the number).
    Raises InputError for a missing folder.
    """

    def __init__(
        self,
        name: str,
        path: str | None,
        image_size: int = 224,
        num_classes: int | None = None,
        train_split: str = "train",
        val_split: str | None = None,
        test_split: str = "validation",
        val_fraction: float = 0.02,
        split_seed: int = 0,
        batch_size: int = 256,
        eval_batch_size: int = 256,
        workers: int | None = 8,
        crop_pct: float = 0.875,
        interpolation: str = "bilinear",
        transforms: dict[str, Any] | None = None,
        mean: tuple[float, ...] = (0.485, 0.456, 0.406),
        std: tuple[float, ...] = (0.229, 0.224, 0.225),
        label: str | None = None,
    ):
        super().__init__()
        streamed = "/" in name
        if not streamed and (path is None or not Path(path).is_dir()):
            raise InputError(f"data.path={path} is not a folder: it must hold 'train' and 'val' with a folder a class")
        self.image_size, self.in_chans = image_size, len(mean)
        self.batch_size, self.eval_batch_size, self.workers = (
            batch_size,
            eval_batch_size,
            cores() if workers is None else workers,
        )
        common = {"interpolation": interpolation, "mean": tuple(mean), "std": tuple(std)}
        self._training = create_transform(image_size, is_training=True, **common, **(transforms or {}))
        self._evaluation = create_transform(image_size, is_training=False, crop_pct=crop_pct, **common)
        self._open = lambda split, training: self._dataset(name, path, split, training)
        self.train_set = self._open(train_split, True)
        self.test_set = self._open(test_split, False)
        self.plain_train_set = self._whole_train_set = self._open(train_split, False)
        if val_split is not None:
            self.val_set = self._open(val_split, False)
        elif isinstance(self.train_set, IterableDataset):
            raise InputError("data.val_split must be named for a stream: nothing can be held out of one")
        else:
            order = torch.randperm(len(self.train_set), generator=torch.Generator().manual_seed(split_seed)).tolist()
            held_out = max(1, round(val_fraction * len(order)))
            self.val_set = Subset(self.plain_train_set, order[:held_out])
            self.plain_train_set = Subset(self.plain_train_set, order[held_out:])
            self.train_set = Subset(self.train_set, order[held_out:])
        self.num_classes = num_classes or self._count_classes()
        self.known = "imagenet" if is_imagenet(self._classes() or (), len(self._paths(self.test_set) or ())) else None
        folder = Path(path).resolve().name if path is not None else "imagefolder"
        self.name = label or name or self.known or folder
        self._root, self._facts = path, [name, train_split, val_split, test_split, self.num_classes]

    def _dataset(self, name: str, path: str | None, split: str, training: bool):
        try:
            return create_dataset(
                name,
                root=path,
                split=split,
                is_training=training,
                batch_size=self.batch_size,
                transform=self._training if training else self._evaluation,
            )
        except (RuntimeError, OSError, ValueError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"the split '{split}' of data '{name or path}' cannot be read: {reason}") from error

    @property
    def fingerprint(self) -> str:
        """Of the files where they lie in folders; else of name, splits and number of images, as far as it is known."""
        splits = {"train": self._paths(self._whole_train_set), "test": self._paths(self.test_set)}
        if self._root is not None and all(splits.values()):
            return folder_fingerprint(splits, Path(self._root))
        sets = (self.train_set, self.val_set, self.test_set)
        return digest(self._facts, [len(each) if hasattr(each, "__len__") else None for each in sets])

    @staticmethod
    def _paths(data) -> list[Path] | None:
        samples = getattr(getattr(data, "reader", None), "samples", None)
        return None if samples is None else [Path(sample[0]) for sample in samples]

    def _classes(self) -> dict[str, int] | None:
        return getattr(getattr(self.test_set, "reader", None), "class_to_idx", None)

    @property
    def class_names(self) -> list[str]:
        """In the order of their numbers; empty where the data set does not tell."""
        classes = self._classes() or {}
        return sorted(classes, key=classes.__getitem__)

    def _count_classes(self) -> int:
        classes = self._classes()
        if not classes:
            raise InputError("data.num_classes must be given: this data set does not say how many classes it has")
        return len(classes)

    def train_dataloader(self) -> DataLoader:
        """Shuffled, augmented; each process gets its share of batch_size."""
        return training_loader(
            self.train_set,
            self.batch_size,
            self.trainer,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader:
        """The validation images, all of them in every process."""
        return self._evaluation_loader(self.val_set)

    def test_dataloader(self) -> DataLoader:
        """The test images, all of them in every process."""
        return self._evaluation_loader(self.test_set)

    def calibration_batch(self, size: int = 256) -> Tensor:
        """The first training images without augmentation, (size, C, H, W)."""
        loader = DataLoader(self.plain_train_set, size, num_workers=0)
        return next(iter(loader))[0]

    def _evaluation_loader(self, data) -> DataLoader:
        return DataLoader(data, self.eval_batch_size, num_workers=self.workers, pin_memory=torch.cuda.is_available())
