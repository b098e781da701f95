"""Where the images live changes no number: looked up instead of divided, cut by indices instead of lists."""

import pytest
import torch

from stq.data import ArrayDataModule
from stq.data.sources import Arrays
from stq.errors import InputError


def module(**settings):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (64, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(64) % 4
    source = Arrays(train=(images, labels), test=(images[:8], labels[:8]))
    return ArrayDataModule("made_up", source, crop_padding=2, flip=True, batch_size=16, **settings)


def test_the_table_holds_what_division_gives():
    data = module()
    images = data.train_set.images
    channels = torch.arange(3).reshape(-1, 1, 1)
    assert torch.equal(data._values[channels, 0, images.long()], data._normalised(images))


class Trainer:
    """As much of Lightning's as a data module asks for."""

    world_size, global_rank, current_epoch = 1, 0, 0

    def __init__(self, device):
        self.strategy = type("Strategy", (), {"root_device": torch.device(device)})()


@pytest.mark.parametrize(
    ("wanted", "device", "moved"),
    [("auto", "cpu", False), (False, "meta", False), ("auto", "meta", True), (True, "meta", True)],
)
def test_it_moves_where_it_is_wanted(wanted, device, moved):
    data = module(on_device=wanted, workers=2)
    data.trainer = Trainer(device)
    data.setup("fit")
    assert data.train_set.images.device.type == (device if moved else "cpu")
    assert data.train_dataloader().num_workers == (0 if moved else 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_batches_on_a_gpu_are_those_of_the_processor():
    found = {}
    for device in ("cpu", "cuda"):
        data = module()
        data.trainer = Trainer(device)
        data.setup("fit")
        torch.manual_seed(3)
        found[device] = [(images.cpu(), labels.cpu()) for images, labels in data.train_dataloader()]
    for (a, b), (c, d) in zip(found["cpu"], found["cuda"], strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


def test_another_word_is_told():
    with pytest.raises(InputError, match="is not true, false or auto"):
        module(on_device="gpu")
