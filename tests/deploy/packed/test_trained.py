"""The networks that come with stq, on the test set that their results are of."""

from pathlib import Path

import numpy as np
import pytest
import torch

import stq
from stq.errors import InputError
from stq.training.build import build_data
from tests.composed import compose_config
from tests.deploy.packed import numpy_reader

NAMES = stq.list_trained()


def test_there_are_some_at_several_bits_and_they_are_small():
    cards = {name: stq.trained_card(name) for name in NAMES}
    assert {2, 3, 4, 32} <= {card["weight_bits"] for card in cards.values()}
    for name, card in cards.items():
        assert name.startswith(card["model"])
        assert len(card["git_commit"]) == 40  # of a clean checkout
        assert card["config"]["trainer"]["max_epochs"] > 0
        assert card["preprocessing"]["mean"]
    with pytest.raises(
        InputError, match=r"there is no trained network 'resnet8_digits_8px_w3a3_doublest' .did you mean"
    ):
        stq.load_trained("resnet8_digits_8px_w3a3_doublest")


@pytest.mark.parametrize("name", [name for name in NAMES if "_digits_" in name])
def test_accuracy_is_the_one_on_the_card(name, tmp_path):
    data = build_data(compose_config(tmp_path, quick=False))
    data.setup("test")
    batches = [batch[:2] for batch in data.test_dataloader()]
    network, size = stq.load_trained(name)
    assert batches[0][0].shape[1:] == torch.Size(size)
    right = np.concatenate([(stq.run(network, x).argmax(1) == y).numpy() for x, y in batches])
    assert abs(100 * right.mean() - stq.trained_card(name)["test_top1"]) < 100 / len(right)


@pytest.mark.parametrize("name", NAMES)
def test_the_reader_written_from_the_page_reads_them(name):
    path = Path(stq.__file__).parent / "trained" / f"{name}.safetensors"
    for node, (own, op, _, _, arrays) in zip(stq.load_trained(name)[0].nodes, numpy_reader.read(path), strict=True):
        assert (node.name, node.op) == (own, op)
        assert all(np.array_equal(array, arrays[key]) for key, array in node.arrays.items())
