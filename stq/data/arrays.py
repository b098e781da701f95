"""Small image sets, held in memory as uint8: split, augmentation, normalisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from ..errors import InputError
from .fingerprint import KNOWN_ARRAYS, arrays_fingerprint
from .loaders import training_loader
from .sources import Arrays


class CropAndFlip:
    """Zero-pads images (N, C, H, W) by ``padding``, crops each to its size at a place of its own, and mirrors half.

    What is drawn is drawn for all images of an epoch at once, so that it depends on the epoch's seed alone and not on
    who loads which batch. torchvision's transforms draw once for a batch; image by image they take as long as a small
    network's training step.
    """

    def __init__(self, padding: int, flip: bool):
        self.padding, self.flip = padding, flip

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """For ``count`` images: whether each is mirrored, (count,), and the place of its crop, (count, 2)."""
        mirrored = torch.rand(count, generator=generator) < (0.5 if self.flip else 0.0)
        return mirrored, torch.randint(2 * self.padding + 1, (count, 2), generator=generator)

    def __call__(self, images: Tensor, mirrored: Tensor, places: Tensor) -> Tensor:
        """The images, each as it was drawn."""
        count, _, height, width = images.shape
        if self.flip:
            images = torch.where(mirrored.reshape(-1, 1, 1, 1), images.flip(-1), images)
        if self.padding:
            rows = places[:, :1] + torch.arange(height, device=images.device)
            columns = places[:, 1:] + torch.arange(width, device=images.device)
            padded = F.pad(images, [self.padding] * 4).movedim(1, -1)
            index = torch.arange(count, device=images.device).reshape(-1, 1, 1), rows.unsqueeze(2), columns.unsqueeze(1)
            images = padded[index].movedim(-1, 1)
        return images


class ArrayDataset(Dataset):
    """uint8 images (N, C, H, W) and labels (N,); a loader takes them a batch at a time, augmented where wanted."""

    def __init__(self, images: Tensor, labels: Tensor, augment: CropAndFlip | None = None):
        self.images, self.labels, self.augment = images, labels, augment
        self.begin_epoch(0)

    def to(self, device: torch.device) -> None:
        """Live there: batches are cut, cropped and mirrored there too, as they are drawn on the processor."""
        self.images, self.labels = self.images.to(device), self.labels.to(device)
        self.begin_epoch(0)

    def begin_epoch(self, seed: int) -> None:
        """Draw the augmentation of an epoch: on the processor, so that it is the same wherever the images are."""
        if self.augment is not None:
            drawn = self.augment.draw(len(self), torch.Generator().manual_seed(seed))
            self._drawn = [values.to(self.images.device) for values in drawn]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        places = torch.tensor(indices).to(self.images.device)
        images = self.images[places]
        if self.augment is not None:
            images = self.augment(images, *(drawn[places] for drawn in self._drawn))
        return images, self.labels[places]


class ArrayDataModule(pl.LightningDataModule):
    """name: of the source. source: ``Arrays`` from ``stq.data.sources``, which read them at ``path``.

    label: what result.json and tables call the data; None takes ``name``, or the name of an .npz file.

    image_size: pixels to which images are resized once, or None. crop_padding, flip: random crop after zero padding
    and horizontal flip, in training. val_fraction: part of the training images held out to select the checkpoint (not
    used where the source has a validation set); the split depends on split_seed only, so all runs share it.
    batch_size: over all processes of a run. on_device: whether all images live where the network is trained, as uint8,
    and are augmented there, with the same numbers: True, False, or "auto" (on GPUs). Images are normalised with mean
    and deviation of the training images.
    """

    def __init__(
        self,
        name: str,
        source: Arrays,
        path: str | None = None,
        image_size: int | None = None,
        crop_padding: int = 0,
        flip: bool = False,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        workers: int = 0,
        label: str | None = None,
        on_device: bool | str = "auto",
    ):
        super().__init__()
        if on_device not in (True, False, "auto"):
            raise InputError(f"data.on_device={on_device} is not true, false or auto")
        if not 0 < val_fraction < 1:
            raise InputError(f"data.val_fraction={val_fraction} must be between 0 and 1")
        self.name = label or (Path(path).stem if name == "npz" and path is not None else name)  # npz names no data
        self.path = path
        self.fingerprint = arrays_fingerprint([source.train, source.val, source.test])
        self.known = source.known or KNOWN_ARRAYS.get(self.fingerprint)
        self.batch_size, self.eval_batch_size, self.workers = batch_size, eval_batch_size, workers
        self.on_device = on_device
        train, val, test = _split(source, val_fraction, split_seed)
        if batch_size > len(train[1]):
            raise InputError(f"data.batch_size={batch_size} is more than the {len(train[1])} training images")
        resize = v2.Resize(image_size, antialias=True) if image_size else torch.nn.Identity()
        train, val, test = ((resize(images), labels) for images, labels in (train, val, test))
        sizes = {tuple(images.shape[1:]) for images, _ in (train, val, test)}
        if len(sizes) > 1 or any(height != width for _, height, width in sizes):
            listed = ", ".join(map(str, sorted(sizes)))
            raise InputError(
                f"the images of data {name} are {listed} (channels, rows, columns): all must be one square"
            )
        self.in_chans, self.image_size = train[0].shape[1], train[0].shape[-1]
        self.num_classes = int(max(labels.max() for _, labels in (train, val, test))) + 1
        pixels = train[0].transpose(0, 1).reshape(self.in_chans, -1).double() / 255
        self.mean, self.std = pixels.mean(1).tolist(), pixels.std(1).clamp_min(1e-3).tolist()
        self._values = self._normalised(torch.arange(256).expand(self.in_chans, 1, 256))  # of every pixel there can be
        self.train_set = ArrayDataset(*train, CropAndFlip(crop_padding, flip))
        self.val_set, self.test_set = ArrayDataset(*val), ArrayDataset(*test)

    def collate(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """uint8 images as a normalised float32 batch (N, C, H, W), with their labels (N,)."""
        images, labels = batch
        if images.device.type == "cpu":
            return self._normalised(images), labels
        # looked up, for another device divides otherwise
        self._values = self._values.to(images.device)
        channels = torch.arange(self.in_chans, device=images.device).reshape(-1, 1, 1)
        return self._values[channels, 0, images.long()], labels

    def _normalised(self, images: Tensor) -> Tensor:
        mean, std = (torch.tensor(v).reshape(-1, 1, 1) for v in (self.mean, self.std))
        return (images.float() / 255 - mean) / std

    def setup(self, stage: str) -> None:
        """Bring the images to the device of a trainer, where they are wanted there."""
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        if self.on_device is True or (self.on_device == "auto" and device.type != "cpu"):
            for data in (self.train_set, self.val_set, self.test_set):
                data.to(device)

    def _loading(self) -> dict[str, Any]:
        """Workers would copy what lives on a device; from memory, pages that stay in place are copied faster."""
        if self.train_set.images.device.type != "cpu":
            return {"num_workers": 0, "collate_fn": self.collate}
        return {"num_workers": self.workers, "collate_fn": self.collate, "pin_memory": torch.cuda.is_available()}

    def train_dataloader(self) -> DataLoader:
        """Shuffled, augmented; each process gets its share of batch_size."""
        return training_loader(
            self.train_set,
            self.batch_size,
            self.trainer,
            **self._loading(),
        )

    def val_dataloader(self) -> DataLoader:
        """The held-out images, in order, all of them in every process."""
        return self._evaluation_loader(self.val_set)

    def test_dataloader(self) -> DataLoader:
        """The test images, in order, all of them in every process."""
        return self._evaluation_loader(self.test_set)

    def calibration_batch(self, size: int = 256) -> Tensor:
        """The first training images without augmentation, the same in every process and run, (size, C, H, W)."""
        return self.collate((self.train_set.images[:size], self.train_set.labels[:size]))[0].cpu()

    def _evaluation_loader(self, data: ArrayDataset) -> DataLoader:
        return DataLoader(data, self.eval_batch_size, **self._loading())


def _split(source: Arrays, fraction: float, seed: int) -> tuple:
    """(train, val, test), each (images, labels)."""
    if source.val is not None:
        return source.train, source.val, source.test
    images, labels = source.train
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    held_out, kept = order[: max(1, round(fraction * len(labels)))], order[max(1, round(fraction * len(labels))) :]
    return (images[kept], labels[kept]), (images[held_out], labels[held_out]), source.test
