"""Small image sets, held in memory as uint8: split, augmentation, normalisation."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from ..errors import InputError
from .loaders import training_loader
from .sources import Arrays


class ArrayDataset(Dataset):
    """uint8 images (N, C, H, W) and labels, with a transform for each image."""

    def __init__(self, images: Tensor, labels: Tensor, transform=None):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        return (image if self.transform is None else self.transform(image)), int(self.labels[index])


class ArrayDataModule(pl.LightningDataModule):
    """name: what result.json calls it. source: ``Arrays`` from ``stq.data.sources``, which read them at ``path``.

    image_size: pixels to which images are resized once, or None. crop_padding, flip: random crop after zero padding
    and horizontal flip, in training. val_fraction: part of the training images held out to select the checkpoint (not
    used where the source has a validation set); the split depends on split_seed only, so all runs share it.
    batch_size: over all processes of a run. Images are normalised with the mean and deviation of the training images.
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
    ):
        super().__init__()
        if not 0 < val_fraction < 1:
            raise InputError(f"data.val_fraction={val_fraction} must be between 0 and 1")
        self.name, self.path = name, path
        self.batch_size, self.eval_batch_size, self.workers = batch_size, eval_batch_size, workers
        train, val, test = _split(source, val_fraction, split_seed)
        if batch_size > len(train[1]):
            raise InputError(f"data.batch_size={batch_size} is more than the {len(train[1])} training images")
        resize = v2.Resize(image_size, antialias=True) if image_size else torch.nn.Identity()
        train, val, test = ((resize(images), labels) for images, labels in (train, val, test))
        self.in_chans, self.image_size = train[0].shape[1], train[0].shape[-1]
        self.num_classes = int(max(labels.max() for _, labels in (train, val, test))) + 1
        pixels = train[0].transpose(0, 1).reshape(self.in_chans, -1).double() / 255
        self.mean, self.std = pixels.mean(1).tolist(), pixels.std(1).clamp_min(1e-3).tolist()
        augment = [v2.RandomCrop(train[0].shape[-2:], padding=crop_padding)] if crop_padding else []
        augment += [v2.RandomHorizontalFlip()] if flip else []
        self.train_set = ArrayDataset(*train, v2.Compose(augment) if augment else None)
        self.val_set, self.test_set = ArrayDataset(*val), ArrayDataset(*test)

    def collate(self, samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        """Stack uint8 samples into a normalised float32 batch (N, C, H, W) and labels (N,)."""
        images = torch.stack([image for image, _ in samples]).float() / 255
        mean, std = (torch.tensor(v).reshape(-1, 1, 1) for v in (self.mean, self.std))
        return (images - mean) / std, torch.tensor([label for _, label in samples])

    def train_dataloader(self) -> DataLoader:
        """Shuffled, augmented; each process gets its share of batch_size."""
        return training_loader(
            self.train_set,
            self.batch_size,
            self.trainer,
            num_workers=self.workers,
            collate_fn=self.collate,
        )

    def val_dataloader(self) -> DataLoader:
        """The held-out images, in order, all of them in every process."""
        return self._evaluation_loader(self.val_set)

    def test_dataloader(self) -> DataLoader:
        """The test images, in order, all of them in every process."""
        return self._evaluation_loader(self.test_set)

    def calibration_batch(self, size: int = 256) -> Tensor:
        """The first training images without augmentation, the same in every process and run, (size, C, H, W)."""
        count = min(size, len(self.train_set))
        return self.collate([(self.train_set.images[i], 0) for i in range(count)])[0]

    def _evaluation_loader(self, data: ArrayDataset) -> DataLoader:
        return DataLoader(data, self.eval_batch_size, num_workers=self.workers, collate_fn=self.collate)


def _split(source: Arrays, fraction: float, seed: int) -> tuple:
    """(train, val, test), each (images, labels)."""
    if source.val is not None:
        return source.train, source.val, source.test
    images, labels = source.train
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    held_out, kept = order[: max(1, round(fraction * len(labels)))], order[max(1, round(fraction * len(labels))) :]
    return (images[kept], labels[kept]), (images[held_out], labels[held_out]), source.test
