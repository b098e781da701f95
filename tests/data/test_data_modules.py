"""Data modules on small files made here, and on the digits."""

import numpy as np
import pytest
import torch
from PIL import Image

from stq.data import ArrayDataModule, TimmDataModule
from stq.data.sources import Arrays, digits, npz, torchvision_set
from stq.errors import InputError


@pytest.fixture
def arrays():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (100, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.arange(100) % 5
    return Arrays((images, labels), (images[:20], labels[:20]))


def as_set(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_digits_are_the_whole_set_split_once():
    from sklearn.datasets import load_digits

    data = digits()
    ours = torch.cat([data.train[0], data.test[0]]).flatten(1).double().numpy() * 16 / 255
    theirs = load_digits().data
    assert np.allclose(ours[np.lexsort(ours.round().T)], theirs[np.lexsort(theirs.T)], atol=0.04)
    assert len(data.test[1]) == 450
    assert torch.equal(data.test[1], digits().test[1])


def test_validation_images_are_held_out_of_training(arrays):
    data = ArrayDataModule("a", arrays, val_fraction=0.2, batch_size=16)
    train, val = as_set(data.train_set.images), as_set(data.val_set.images)
    assert (len(train), len(val)) == (80, 20)
    assert not train & val
    assert train | val == as_set(arrays.train[0])


def test_batches_are_normalised_by_the_training_images(arrays):
    data = ArrayDataModule("a", arrays, batch_size=16)
    pixels = data.train_set.images.numpy() / 255
    assert np.allclose(data.mean, pixels.mean((0, 2, 3)))
    images, labels = next(iter(data.test_dataloader()))
    wanted = (arrays.test[0].numpy() / 255 - pixels.mean((0, 2, 3)).reshape(3, 1, 1)) / pixels.std(
        (0, 2, 3), ddof=1
    ).reshape(3, 1, 1)
    assert np.allclose(images.numpy(), wanted, atol=1e-5)
    assert torch.equal(labels, arrays.test[1])


def test_training_images_are_crops_of_the_padded_image_or_its_mirror(arrays):
    data = ArrayDataModule("a", arrays, crop_padding=2, flip=True, batch_size=16)
    originals = data.train_set.images.numpy()
    images, labels = data.train_set.__getitems__(list(range(90)))
    assert torch.equal(labels, data.train_set.labels[:90])
    places = []
    for image, original in zip(images.numpy(), originals, strict=True):
        padded = np.pad(original, ((0, 0), (2, 2), (2, 2)))
        crops = {(0, y, x): padded[:, y : y + 8, x : x + 8] for y, x in np.ndindex(5, 5)}
        padded = padded[:, :, ::-1]
        crops |= {(1, y, x): padded[:, y : y + 8, x : x + 8] for y, x in np.ndindex(5, 5)}
        places += [place for place, crop in crops.items() if np.array_equal(crop, image)][:1]
    assert len(places) == 90
    mirrored, rows, columns = np.transpose(places)
    assert 25 < mirrored.sum() < 65
    assert set(rows) == set(columns) == set(range(5))
    assert not np.array_equal(rows, columns)


def test_augmentation_only_in_training(arrays):
    data = ArrayDataModule("a", arrays, crop_padding=2, flip=True, batch_size=16)
    assert torch.equal(data.val_set[0][0], data.val_set.images[0])
    assert torch.equal(data.calibration_batch(8), data.calibration_batch(8))


def test_resizing_happens_once(arrays):
    assert ArrayDataModule("a", arrays, image_size=4, batch_size=16).calibration_batch(2).shape == (2, 3, 4, 4)


def test_npz_reads_medmnist_keys(tmp_path):
    rng = np.random.default_rng(0)
    content = {}
    for split, count in (("train", 12), ("val", 4), ("test", 6)):
        content[f"{split}_images"] = rng.integers(0, 256, (count, 5, 5), dtype=np.uint8)
        content[f"{split}_labels"] = rng.integers(0, 3, (count, 1)).astype(np.uint8)
    np.savez(tmp_path / "x.npz", **content)
    data = npz(str(tmp_path / "x.npz"))
    assert np.array_equal(data.val[0][:, 0].numpy(), content["val_images"])
    assert np.array_equal(data.test[1].numpy(), content["test_labels"].ravel())
    module = ArrayDataModule("x", data, batch_size=4)
    assert (len(module.train_set), len(module.val_set), len(module.test_set)) == (12, 4, 6)


def test_broken_npz_is_told_in_a_sentence(tmp_path):
    np.savez(tmp_path / "keys.npz", images=np.zeros(3))
    with pytest.raises(InputError, match="has no 'train_images'; it has images"):
        npz(str(tmp_path / "keys.npz"))
    np.savez(tmp_path / "type.npz", train_images=np.zeros((3, 4, 4)), train_labels=np.zeros(3))
    with pytest.raises(InputError, match="must be uint8"):
        npz(str(tmp_path / "type.npz"))
    with pytest.raises(InputError, match="is not a file"):
        npz(str(tmp_path / "absent.npz"))


def _content(**changes):
    images, labels = np.zeros((4, 6, 6, 3), np.uint8), np.array([0, 1, 1, 0])
    both = {
        f"{split}_{kind}": array
        for split in ("train", "test")
        for kind, array in (("images", images), ("labels", labels))
    }
    return both | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": np.array([0, -1, 1, 0])}, r"train_labels .* are as low as -1: they must be whole numbers"),
        ({"train_labels": np.array([0, 1.5, 1, 0])}, r"train_labels .* are float64"),
        ({"test_labels": np.array([0, np.nan, 1, 0])}, r"test_labels .* are float64"),
        ({"train_labels": np.array([0, 10**6, 1, 0])}, "reach 1000000, but none is 2"),
        ({"test_labels": np.array([0, 2, 1, 0])}, r"test_labels .* hold 2, which train_labels do not"),
        ({"train_images": np.zeros((4, 3, 6, 6), np.uint8)}, "more channels than rows"),
        ({"train_labels": np.array(["a", "b", "c", "d"])}, r"train_labels .* are <U1"),
        ({"train_labels": np.array([None] * 4)}, r"is not an \.npz of plain arrays"),
    ],
)
def test_contents_of_an_npz_that_make_no_sense_are_told(changes, message, tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **_content())
    assert npz(str(path)).train[0].shape == (4, 3, 6, 6)
    np.savez(path, **_content(**changes))
    with pytest.raises(InputError, match=message):
        npz(str(path))


def test_damaged_npz_files_are_told(tmp_path):
    np.savez_compressed(
        tmp_path / "x.npz", **_content(train_images=np.random.default_rng(0).integers(0, 255, (4, 6, 6, 3), np.uint8))
    )
    data = (tmp_path / "x.npz").read_bytes()
    for place in (10, len(data) // 2, len(data) - 4):
        (tmp_path / "cut.npz").write_bytes(data[:place])
        with pytest.raises(InputError, match=r"is not an \.npz of plain arrays"):
            npz(str(tmp_path / "cut.npz"))
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(InputError, match="is a single array"):
        npz(str(tmp_path / "single.npy"))


@pytest.mark.parametrize("shape", [(4, 3, 6, 5), (4, 1, 6, 6), (4, 3, 8, 8)])
def test_images_of_several_sizes_are_told(shape):
    images, labels = torch.zeros(8, 3, 6, 6, dtype=torch.uint8), torch.arange(8) % 2
    source = Arrays((images, labels), (torch.zeros(shape, dtype=torch.uint8), labels[:4]))
    with pytest.raises(InputError, match="all must be one square"):
        ArrayDataModule("x", source, batch_size=2)


def test_torchvision_files_are_read_where_they_lie(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = {
        "train": rng.integers(0, 256, (6, 28, 28), dtype=np.uint8),
        "t10k": rng.integers(0, 256, (4, 28, 28), dtype=np.uint8),
    }
    for split, pixels in images.items():
        head = np.array([0x803, len(pixels), 28, 28], dtype=">i4").tobytes()
        (raw / f"{split}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        labels = np.arange(len(pixels), dtype=np.uint8)
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(
            np.array([0x801, len(labels)], dtype=">i4").tobytes() + labels.tobytes()
        )
    data = torchvision_set("FashionMNIST", str(tmp_path), download=False)
    assert np.array_equal(data.train[0][:, 0].numpy(), images["train"])
    assert data.test[1].tolist() == [0, 1, 2, 3]
    with pytest.raises(InputError, match="CIFAR10 is not in"):
        torchvision_set("CIFAR10", str(tmp_path), download=False)


@pytest.fixture
def image_folder(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 4)):
        for name in ("cat", "dog", "elk"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path


def test_image_folder(image_folder):
    data = TimmDataModule("", str(image_folder), image_size=32, batch_size=8, val_fraction=0.2, workers=0, label="mini")
    assert (data.num_classes, data.name) == (3, "mini")
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (24, 6, 12)
    assert not set(data.train_set.indices) & set(data.val_set.indices)
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (8, 3, 32, 32)
    assert labels.max() < 3
    assert data.calibration_batch(5).shape == (5, 3, 32, 32)


def test_missing_folder_is_told_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match="is not a folder: it must hold 'train' and 'val'"):
        TimmDataModule("", str(tmp_path / "absent"))
    with pytest.raises(InputError, match="cannot be read"):
        TimmDataModule("", str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"), [({"batch_size": 1000}, "more than the"), ({"val_fraction": 0}, "between 0 and 1")]
)
def test_wrong_settings(arrays, settings, message):
    with pytest.raises(InputError, match=message):
        ArrayDataModule("a", arrays, **settings)
