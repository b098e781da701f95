"""Checkpoints: damaged ones are noticed, the one before is used, a moved folder goes on as it was."""

import contextlib
import csv
import random
import shutil
import zipfile

import pytest
import torch

from stq.cli.evaluate_run import evaluate_run
from stq.errors import InputError
from stq.training import train
from stq.training.checkpoints import DurableCheckpointIO, before, checkpoint_to_resume, read_checkpoint
from stq.training.classifier import Classifier
from tests.composed import compose_config

SETTINGS = ("model.width=2", "init=scratch", "trainer.max_epochs=4", "data.crop_padding=1", "loss.mixup=0.2")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """(folder of a run that was stopped after three of four epochs, its configuration, last.ckpt of one left alone)."""
    runs = tmp_path_factory.mktemp("stopped")
    train(compose_config(runs, *SETTINGS, folder="alone"))
    cfg = compose_config(runs, *SETTINGS)
    original = Classifier.on_train_epoch_start

    def stop(self):
        if self.current_epoch == 3:
            raise KeyboardInterrupt
        original(self)

    Classifier.on_train_epoch_start = stop
    try:
        with pytest.raises(KeyboardInterrupt):
            train(cfg)
    finally:
        Classifier.on_train_epoch_start = original
    return runs / "run", runs / "alone"


@pytest.fixture
def copy(stopped, tmp_path):
    """(configuration, folder) of a copy in another place."""
    folder = tmp_path / "moved" / "run"
    shutil.copytree(stopped[0], folder)
    return compose_config(tmp_path / "moved", *SETTINGS), folder


def same_end(folder, alone) -> bool:
    ends = [torch.load(each / "checkpoints" / "last.ckpt")["state_dict"] for each in (folder, alone)]
    return all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def lines(folder):
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    return [(row["epoch"], row["val_top1"], row["train_loss"]) for row in rows if row["val_top1"] or row["train_loss"]]


def damage_nothing(folder):
    pass


def damage_last(folder):
    path = folder / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:-1000])


def damage_both(folder):
    damage_last(folder)
    before(folder / "checkpoints" / "last.ckpt").write_bytes(b"")


def damage_best(folder):
    path = folder / "checkpoints" / "best.ckpt"
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    content[content.index(archive_data(path, largest)) + largest.file_size // 2] ^= 8  # between members is padding
    path.write_bytes(content)


def archive_data(path, member):
    with zipfile.ZipFile(path) as archive:
        return archive.read(member)


def lose_best_between_two_names(folder):
    path = folder / "checkpoints" / "best.ckpt"
    path.replace(before(path))


def cut_metrics(folder):
    path = folder / "metrics.csv"
    path.write_text(path.read_text()[:-5])


@pytest.mark.parametrize(
    "damage", [damage_nothing, damage_last, damage_both, damage_best, lose_best_between_two_names, cut_metrics]
)
def test_a_moved_and_damaged_run_ends_with_the_numbers_of_one_left_alone(damage, copy, stopped, caplog):
    cfg, folder = copy
    damage(folder)
    result = train(cfg)
    assert same_end(folder, stopped[1])
    from stq.results.runs.result_file import read_result

    alone = read_result(stopped[1])
    assert (result["val_top1"], result["test_top1"], result["steps"]) == (
        alone["val_top1"],
        alone["test_top1"],
        alone["steps"],
    )
    assert lines(folder) == lines(stopped[1])  # metrics.csv is one file from the first epoch to the last
    told = [record.message for record in caplog.records if "damaged" in record.message]
    assert len(told) == {damage_last: 1, damage_both: 2, damage_best: 1}.get(damage, 0)
    assert not list((folder / "checkpoints").glob("*.before"))


def test_no_flipped_bit_is_read_without_a_word(tmp_path):
    path = tmp_path / "x.ckpt"
    content = {"state_dict": {"a": torch.randn(40, 7), "b": torch.arange(5)}, "epoch": 3, "names": ["x", "y"]}
    DurableCheckpointIO().save_checkpoint(content, path)
    whole = path.read_bytes()
    rng, noticed = random.Random(0), 0
    for _ in range(300):
        spoiled = bytearray(whole)
        spoiled[rng.randrange(len(spoiled))] ^= 1 << rng.randrange(8)
        path.write_bytes(spoiled)
        found = None
        with contextlib.suppress(InputError):
            found = read_checkpoint(path)
        if found is None:
            noticed += 1
            continue
        assert found["epoch"] == 3  # the bit was in padding
        assert found["names"] == ["x", "y"]
        assert torch.equal(found["state_dict"]["a"], content["state_dict"]["a"])
        assert torch.equal(found["state_dict"]["b"], content["state_dict"]["b"])
    assert noticed > 50


@pytest.mark.parametrize("size", [0, 1, 10, 500, -1, -100])
def test_a_cut_off_checkpoint_is_one_sentence(size, tmp_path):
    path = tmp_path / "x.ckpt"
    DurableCheckpointIO().save_checkpoint({"state_dict": {"a": torch.randn(300)}}, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match="is damaged") as told:
        read_checkpoint(path)
    assert "\n" not in str(told.value)


def test_the_one_before_is_kept_until_the_new_one_is_verified(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    io = DurableCheckpointIO()
    io.save_checkpoint({"epoch": 1, "state_dict": {}}, path)
    io.save_checkpoint({"epoch": 2, "state_dict": {}}, path)
    assert (read_checkpoint(path)["epoch"], read_checkpoint(before(path))["epoch"]) == (2, 1)

    def bad(_):
        raise InputError("the new one is damaged")

    monkeypatch.setattr("stq.training.checkpoints.verify", bad)
    with pytest.raises(InputError):
        io.save_checkpoint({"epoch": 3, "state_dict": {}}, path)
    monkeypatch.undo()
    assert (read_checkpoint(path)["epoch"], read_checkpoint(before(path))["epoch"]) == (2, 1)
    assert checkpoint_to_resume(tmp_path) == path


def test_a_damaged_checkpoint_of_a_finished_run_is_not_evaluated(stopped):
    _, alone = stopped
    path = alone / "checkpoints" / "best.ckpt"
    whole = path.read_bytes()
    try:
        damage_best(alone)
        with pytest.raises(InputError, match="is damaged"):
            evaluate_run(alone)
    finally:
        path.write_bytes(whole)


def test_an_average_of_weights_with_falling_bits_is_resumed(tmp_path, monkeypatch):
    settings = ("callbacks=ema", "callbacks.progressive=8-4-3", "init=scratch", "model.width=2", "trainer.max_epochs=6")
    train(compose_config(tmp_path, *settings, folder="alone"))
    cfg = compose_config(tmp_path, *settings)
    original = Classifier.on_train_epoch_start

    def stop(self):
        if self.current_epoch == 3:  # at 4 bits
            raise KeyboardInterrupt
        original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "on_train_epoch_start", stop)
        with pytest.raises(KeyboardInterrupt):
            train(cfg)
    train(cfg)
    assert same_end(tmp_path / "run", tmp_path / "alone")
