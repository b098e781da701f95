"""The small backbones against the sizes that their papers and everybody's tables give."""

from itertools import pairwise

import pytest
import timm
import torch

import stq
import stq.models


def parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


# He et al., arXiv 1512.03385, table 6: 0.27 M, 0.46 M, 0.66 M, 0.85 M; exact counts by hand for option A shortcuts
@pytest.mark.parametrize(
    ("name", "count"), [("resnet20", 269_722), ("resnet32", 464_154), ("resnet44", 658_586), ("resnet56", 853_018)]
)
def test_parameter_counts_of_the_paper(name, count):
    assert parameters(timm.create_model(name)) == count


def test_vgg_small_counts_its_layers():
    widths = [3, 128, 128, 256, 256, 512, 512]
    convolutions = sum(9 * a * b for a, b in pairwise(widths))
    norms = sum(2 * b for b in widths[1:])
    assert parameters(timm.create_model("vgg_small")) == convolutions + norms + 16 * 512 * 10 + 10


@pytest.mark.parametrize(("name", "size", "channels"), [("resnet8", 8, 1), ("resnet20", 32, 3), ("vgg_small", 32, 3)])
def test_shapes_and_gradients(name, size, channels):
    model = timm.create_model(name, num_classes=7, in_chans=channels, width=8)
    logits = model(torch.randn(2, channels, size, size))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert {"resnet8", "resnet20", "vgg_small"} <= set(timm.list_models("*"))


def test_reactnet_is_the_size_of_its_paper_and_becomes_binary():
    model = timm.create_model("reactnet")
    # arXiv 2003.03488 counts 29.3 M parameters for ReActNet-A
    assert 29.0e6 < parameters(model) < 29.6e6
    small = timm.create_model("reactnet", width=4, num_classes=3)
    stq.quantize(small, "double_st_frozen", weight_bits=1, activation_bits=1, first_last_bits=32)
    x = torch.randn(2, 3, 32, 32)
    rows = stq.calibrate(small, x)
    assert {(r.weight_bits, r.activation_bits, r.input) for r in rows} == {(1, 1, "signed"), (32, 32, "float")}
    assert small(x).shape == (2, 3)
