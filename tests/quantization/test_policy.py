"""Which layer gets how many bits."""

import pytest
import timm
from torch import nn

import stq
from stq.quantization.policy import Policy


def network():
    """Paths: stem, body.0, body.1, body.2, head."""
    model = nn.Module()
    model.stem = nn.Conv2d(3, 8, 3)
    model.body = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1))
    model.head = nn.Linear(8, 2)
    return model


def plans(**policy):
    return {plan.path: plan for plan in Policy(**policy).plan(network())}


def bits(**policy):
    """{path: (weight bits, activation bits)}"""
    return {path: (plan.weight_bits, plan.activation_bits) for path, plan in plans(**policy).items()}


def test_first_and_last_layer_have_eight_bits_by_the_same_method_whatever_the_method():
    found = plans(method="pact", weight_bits=2, activation_bits=3)
    assert {p: (x.weight_bits, x.activation_bits, x.method, x.weight_method) for p, x in found.items()} == {
        "stem": (8, 8, "lsq", "lsq"),
        "body.0": (2, 3, "pact", "dorefa"),
        "body.1": (2, 3, "pact", "dorefa"),
        "body.2": (2, 3, "pact", "dorefa"),
        "head": (8, 8, "lsq", "lsq"),
    }


def test_first_and_last_can_stay_float_or_be_as_any_other():
    assert bits(first_last_bits=32).keys() == {"body.0", "body.1", "body.2"}
    assert bits(first_last_bits=4)["stem"] == (4, 4)
    as_any = plans(first_last_bits=None)
    assert (as_any["head"].weight_bits, as_any["head"].method) == (3, "double_st")


def test_timms_own_words_on_which_layers_are_first_and_last_come_before_their_order():
    model = network()
    model.pretrained_cfg = {"first_conv": "body.0", "classifier": ("body.2", "head")}
    found = {plan.path: plan.weight_bits for plan in Policy(weight_bits=2).plan(model)}
    assert found == {"stem": 2, "body.0": 8, "body.1": 2, "body.2": 8, "head": 8}
    headless = timm.create_model("resnet10t", num_classes=0)  # names a classifier that is not there
    assert Policy(weight_bits=2).plan(headless)[-1].weight_bits == 8


def test_weights_and_activations_each_on_their_own():
    assert bits(weight_bits=2, activation_bits=5)["body.0"] == (2, 5)
    assert bits(weight_bits=2, activation_bits=32) == {
        "stem": (8, 32),  # a side that is float everywhere is float here too
        "body.0": (2, 32),
        "body.1": (2, 32),
        "body.2": (2, 32),
        "head": (8, 32),
    }
    assert set(bits(weight_bits=32, activation_bits=1, first_last_bits=None).values()) == {(32, 1)}
    assert bits(weight_bits=32, activation_bits=32) == {}
    assert bits(method="none") == {}


def test_overrides_by_path_pattern_and_later_patterns_win():
    found = plans(
        weight_bits=3,
        activation_bits=3,
        layers={
            "body.*": {"weight_bits": 4},
            "body.1": {"weight_bits": 5, "activation_bits": 6, "method": "lsq_plus", "signed": True},
            "body.2": {"weight_method": "sawb"},
            "head": {"weight_bits": 2},
        },
    )
    assert (found["body.0"].weight_bits, found["body.0"].activation_bits, found["body.0"].signed) == (4, 3, None)
    one = found["body.1"]
    assert (one.weight_bits, one.activation_bits, one.method, one.signed) == (5, 6, "lsq_plus", True)
    assert (found["body.2"].method, found["body.2"].weight_method) == ("double_st", "sawb")
    assert (found["head"].weight_bits, found["head"].activation_bits) == (2, 8)


def test_a_layer_without_method_or_of_32_bits_stays_float():
    found = bits(layers={"body.0": {"method": "none"}, "body.1": {"weight_bits": 32, "activation_bits": 32}})
    assert found.keys() == {"stem", "body.2", "head"}


def test_skipped_layers_stay_float():
    assert bits(skip=["body.[01]", "head"]).keys() == {"stem", "body.2"}


@pytest.mark.parametrize("field", ["weight_bits", "activation_bits", "first_last_bits"])
@pytest.mark.parametrize("value", [0, 9, 16, -1, True, 3.0, "3"])
def test_bits_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}={value} is not a bit width: use 1 to 8, or 32"):
        Policy(**{field: value})


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"method": "lsqq"}, "no quantizer named 'lsqq': did you mean 'lsq'"),
        ({"first_last_method": "lsqq"}, "no quantizer named 'lsqq'"),
        ({"weight_method": "sawbb"}, "no weight quantizer named 'sawbb': did you mean 'sawb'"),
        ({"layers": {"body.0": {"weigth_bits": 3}}}, r"has no setting 'weigth_bits' \(did you mean 'weight_bits'"),
        ({"layers": {"body.0": {"weight_bits": 9}}}, r"layers\.'body\.0'\.weight_bits=9 is not a bit width"),
        ({"layers": {"bodi.0": {"weight_bits": 3}}}, r"no layer matches 'bodi\.0' \(did you mean 'body\.0'"),
        ({"layers": {"body.0": {"method": "lsqq"}}}, "no quantizer named 'lsqq'"),
        ({"layers": {"body.0": {"weight_method": "sawbb"}}}, "no weight quantizer named 'sawbb'"),
        ({"skip": ["haed"]}, r"no layer matches 'haed' \(did you mean 'head'"),
    ],
)
def test_unknown_names_and_patterns_are_refused_with_the_nearest(policy, message):
    with pytest.raises(ValueError, match=message):
        Policy(**policy).plan(network())


def test_a_model_without_layers_is_refused():
    with pytest.raises(ValueError, match="no convolution or linear layer"):
        stq.quantize(nn.Sequential(nn.ReLU()))
