"""One thread (the tensors are tiny), a fixed seed for every test, and what several rooms of tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import stq
from tests.composed import compose_config
from tests.small_networks import small_network

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def digits():
    """(training images, training labels, test images, test labels), images (N, 1, 8, 8)."""
    data = load_digits()
    images, labels = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 8 - 1, torch.tensor(data.target)
    return images[:1297], labels[:1297], images[1297:], labels[1297:]


@pytest.fixture(scope="session")
def trained(digits):
    """``trained(bits, method)``: the small network after a few hundred steps on the digits, in evaluation."""
    made = {}

    def train(bits: int, method: str = "double_st_frozen") -> nn.Module:
        if (bits, method) not in made:
            torch.manual_seed(0)
            images, labels, *_ = digits
            model = small_network()
            for stage in ("float", "quantized"):
                if stage == "quantized":
                    stq.quantize(model, method, weight_bits=bits, activation_bits=bits, first_last_bits=8)
                    stq.calibrate(model, images[:256])
                optimizer = torch.optim.Adam(model.parameters(), 3e-3)
                model.train()
                for step in range(100):
                    stq.set_progress(model, step / 99)
                    index = torch.randint(len(images), (64,))
                    optimizer.zero_grad()
                    F.cross_entropy(model(images[index]), labels[index]).backward()
                    optimizer.step()
            made[bits, method] = model.eval()
        return made[bits, method]

    return train


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def finished(runs):
    """(result, configuration) of a trained 3-bit double-stage ST run with its float baseline."""
    from stq.training import train

    cfg = compose_config(runs)
    return train(cfg), cfg
