"""Quantizers by name: listing, one's own by decorator or by entry point, and unknown names."""

import pytest
import torch
from torch import nn

import stq
from stq.quantizers import get_method, get_weight_quantizer, registry

OWN = '''
import torch
import stq


@stq.register_quantizer("{name}", weights="sawb")
class PowerOfTwo(stq.ActivationQuantizer):
    """The step is a power of two."""

    def __init__(self, *args, octave: int = 0, **common):
        super().__init__(*args, **common)
        self.octave = octave
        self.register_buffer("step", torch.ones(()))

    def initialize(self, x):
        self.step.fill_(2.0 ** (self.octave + int(torch.log2(x.abs().max() / self.high).ceil())))

    def fake_quantize(self, x):
        return self.step * self.round(x / self.step)

    def record(self):
        return self.make_record(1 / self.step, torch.zeros_like(self.step), self.step)
'''


@pytest.fixture(autouse=True)
def _registry_put_back(monkeypatch):
    for table in (registry._methods, registry._weights):
        monkeypatch.setattr(table, "entries", dict(table.entries))
    yield
    registry._load_entry_points.cache_clear()


def check_own(name):
    """The quantizer of ``OWN`` takes part in everything: listing, surgery, its own setting, calibration, records."""
    assert name in stq.list_quantizers()
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    stq.quantize(model, name, settings={"octave": 1})
    x = torch.rand(2, 3, 8, 8)
    stq.calibrate(model, x)
    middle = model[2].input_quantizer
    assert (type(middle).__name__, middle.octave) == ("PowerOfTwo", 1)
    assert type(model[2].parametrizations.weight[0]).__name__ == "SAWBWeight"
    codes = middle.record().encode(model[:2](x)).unique()
    assert codes.min() >= 0
    assert 1 < codes.max() <= 4  # one octave above the range


def test_the_methods_of_the_issue_are_there():
    forms = ["double_st_dynamic", "double_st_frozen", "float_gates", "none"]
    assert stq.list_quantizers() == sorted(["dorefa", "double_st", "lsq", "lsq_plus", "pact", "st", *forms])
    assert stq.list_weight_quantizers() == ["dorefa", "lsq", "lsq_symmetric", "sawb"]


def test_wildcards_list_as_in_timm():
    assert stq.list_quantizers("*st") == ["double_st", "st"]
    assert stq.list_quantizers("lsq*") == ["lsq", "lsq_plus"]
    assert stq.list_quantizers("nothing*") == []
    assert stq.list_weight_quantizers("s*") == ["sawb"]


def test_every_method_is_paired_with_a_weight_quantizer():
    pairs = {name: get_method(name).weights for name in stq.list_quantizers()}
    assert pairs == {
        "double_st": "lsq",
        "double_st_frozen": "lsq",
        "double_st_dynamic": "lsq",
        "float_gates": "lsq",
        "st": "lsq",
        "lsq": "lsq",
        "lsq_plus": "lsq",
        "pact": "dorefa",
        "dorefa": "dorefa",
        "none": "lsq",
    }
    for weights in pairs.values():
        get_weight_quantizer(weights)


def test_ones_own_quantizer_by_decorator():
    exec(OWN.format(name="mine"), {})
    check_own("mine")


def test_ones_own_weight_quantizer_by_decorator():
    @stq.register_weight_quantizer("ternary")
    class Ternary(stq.WeightQuantizer):
        low, high = -1, 1

        def encode(self, weight):
            scale = weight.abs().mean()
            return (weight / scale).round().clamp(-1, 1), scale

    model = stq.quantize(
        nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)), "lsq", weight_method="ternary"
    )
    assert model[1].weight.unique().numel() == 3


def test_another_packages_quantizer_is_found_through_its_entry_point(tmp_path, monkeypatch):
    (tmp_path / "somebodys_quantizers.py").write_text(OWN.format(name="somebodys"))
    info = tmp_path / "somebodys_quantizers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys-quantizers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[stq.quantizers]\nsomebodys = somebodys_quantizers\n")
    assert "somebodys" not in stq.list_quantizers()
    monkeypatch.syspath_prepend(tmp_path)
    registry._load_entry_points.cache_clear()  # as in a new process
    check_own("somebodys")


def test_unknown_names_give_the_nearest_valid_one():
    with pytest.raises(ValueError, match="no quantizer named 'lsqq': did you mean 'lsq'"):
        get_method("lsqq")
    with pytest.raises(ValueError, match="no weight quantizer named 'dorefaa': did you mean 'dorefa'"):
        get_weight_quantizer("dorefaa")
    with pytest.raises(ValueError, match="there are dorefa, double_st, double_st_dynamic, "):
        get_method("xyz")


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(ValueError, match="a quantizer named 'lsq' is registered already"):
        stq.register_quantizer("lsq")(type("Other", (), {}))
    with pytest.raises(ValueError, match="a weight quantizer named 'sawb' is registered already"):
        stq.register_weight_quantizer("sawb")(type("Other", (), {}))


def test_a_class_that_is_defined_again_takes_the_place_of_the_first():
    made = []
    for _ in range(2):  # a cell of a notebook, run twice

        @stq.register_gate("again")
        class Again(stq.Gate):
            def map(self, z, parameters):
                return z

        made.append(Again)
    assert registry.get_gate("again") is made[1]


def test_a_decorator_without_a_name_or_a_class_is_refused():
    with pytest.raises(ValueError, match="a gate is registered with its name in quotes"):
        stq.register_gate(type("Own", (stq.Gate,), {}))
    with pytest.raises(ValueError, match="a gate is a class that inherits"):
        stq.register_gate("function")(lambda channels: None)
    with pytest.raises(ValueError, match="a gate is a class that inherits"):
        stq.register_gate("without")(type("WithoutMap", (stq.Gate,), {}))
