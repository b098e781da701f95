"""The accuracy plot: which numbers go into it, and what is refused."""

import pytest

from stq.errors import InputError
from stq.results.plots import accuracy_by_bits, plot_accuracy, results_under
from stq.results.schema import KEYS, SCHEMA_VERSION, write_result


def make(folder, **values):
    folder.mkdir(parents=True)
    base = dict.fromkeys(KEYS) | {"schema_version": SCHEMA_VERSION, "status": "done", "error": None, "tags": []}
    base |= {"method": "lsq", "weight_bits": 2, "activation_bits": 2, "first_last_bits": 8, "data": "d", "model": "m"}
    base |= {"seed": 0, "test_top1": 50.0, "float_test_top1": 60.0}
    write_result(folder, base | values)


@pytest.fixture
def runs(tmp_path):
    for seed, accuracy in enumerate((90.0, 92.0)):
        make(tmp_path / f"a{seed}", seed=seed, test_top1=accuracy)
        make(tmp_path / f"b{seed}", seed=seed, method="pact", weight_bits=3, activation_bits=3)
    make(tmp_path / "float", method="none", weight_bits=32, activation_bits=32, first_last_bits=32)
    make(tmp_path / "mixed", weight_bits=2, activation_bits=4)
    make(tmp_path / "broken", status="failed", error="out of memory")
    return tmp_path


def test_seeds_are_gathered_by_method_and_bits(runs):
    results = results_under(runs)
    assert len(results) == 6  # the failed run is none
    assert accuracy_by_bits(results) == {"lsq": {2: [90.0, 92.0]}, "pact": {3: [50.0, 50.0]}}


def test_picture_names_what_it_shows(runs):
    plot_accuracy(results_under(runs), runs / "picture.svg")
    text = (runs / "picture.svg").read_text()
    for label in ("lsq", "pact", "float baseline (60.0 %)", "test top-1, %"):
        assert f"<!-- {label} -->" in text


def test_runs_that_do_not_compare_are_refused(runs):
    make(runs / "other", data="another")
    with pytest.raises(InputError, match="do not compare"):
        accuracy_by_bits(results_under(runs))


def test_nothing_to_plot_is_told(tmp_path):
    with pytest.raises(InputError, match="holds no finished run"):
        results_under(tmp_path)
