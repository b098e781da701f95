"""The numbers in a report, against the statistics module and scipy.stats, and what may share a table or a row."""

import csv
import io
import re
import statistics
import time
from collections import defaultdict

import pytest
from scipy import stats

from stq.cli import report
from tests.made_up_runs import FLOAT, make_run

OURS = {"lsq": (90.0, 91.5, 90.6, 92.1), "pact": (89.2, 91.0, 90.9, 90.8)}
FLOATS = (95.0, 96.0, 95.5, 96.5)


@pytest.fixture
def runs(tmp_path):
    for method, accuracies in OURS.items():
        for seed, accuracy in enumerate(accuracies):
            values = {"method": method, "seed": seed, "test_top1": accuracy, "float_test_top1": FLOATS[seed]}
            make_run(tmp_path / f"{method}{seed}", **values)
    return tmp_path


@pytest.fixture
def lines(capsys):
    def read(*arguments):
        report.main([*map(str, arguments), "--format", "csv"])
        kinds = defaultdict(list)
        for line in csv.DictReader(io.StringIO(capsys.readouterr().out)):
            kinds[line["kind"]].append(line)
        return kinds

    return read


def test_mean_deviation_and_difference(runs, lines):
    found = {line["row"]: line for line in lines(runs)["ours"]}
    assert found.keys() == OURS.keys()
    for method, accuracies in OURS.items():
        line = found[method]
        assert float(line["top1_mean"]) == pytest.approx(statistics.mean(accuracies))
        assert float(line["top1_sd"]) == pytest.approx(statistics.stdev(accuracies))
        assert line["n"] == "4"
        gaps = [ours - floats for ours, floats in zip(accuracies, FLOATS, strict=True)]
        assert float(line["difference"]) == pytest.approx(statistics.mean(gaps))
        assert line["best"] == str(int(method == "lsq"))


def test_paired_interval_is_that_of_scipy(runs, lines):
    make_run(runs / "unpaired", method="lsq", seed=9, test_top1=10.0)  # no such seed of pact: not in the comparison
    (line,) = lines(runs, "--against", "lsq")["comparison"]
    expected = stats.ttest_rel(OURS["pact"], OURS["lsq"])
    interval = expected.confidence_interval(0.95)
    assert (line["row"], line["reference"], line["n"]) == ("pact", "lsq", "4")
    numbers = [float(line[key]) for key in ("low", "high", "p", "p_holm")]
    assert numbers == pytest.approx([interval.low, interval.high, expected.pvalue, expected.pvalue])
    assert float(line["difference"]) == pytest.approx(statistics.mean(OURS["pact"]) - statistics.mean(OURS["lsq"]))


def test_holm_corrects_for_all_comparisons(runs, lines):
    for seed, accuracy in enumerate((70.0, 75.0, 71.0, 72.0)):
        make_run(runs / f"st{seed}", method="st", seed=seed, test_top1=accuracy)
    found = {line["row"]: line for line in lines(runs, "--against", "lsq")["comparison"]}
    st, pact = float(found["st"]["p"]), float(found["pact"]["p"])
    assert st < pact  # so the two steps of Holm's procedure are these
    assert float(found["st"]["p_holm"]) == pytest.approx(2 * st)
    assert float(found["pact"]["p_holm"]) == pytest.approx(max(2 * st, pact))


def test_what_does_not_compare_is_never_averaged(runs, lines):
    for name, values in {
        "data": {"data": "cifar10"},
        "model": {"model": "resnet20"},
        "policy": {"first_last_bits": 32},
        "bits": {"activation_bits": 3},
        "epochs": {"epochs": 90},
    }.items():
        make_run(runs / name, seed=7, test_top1=1.0, **values)
    ours = lines(runs)["ours"]
    assert sorted(line["n"] for line in ours) == ["1"] * 5 + ["4"] * 2
    assert len({line["group"] for line in ours}) == 4  # bits are a column; epochs a row that says so
    assert [line["row"] for line in ours if "epochs=90" in line["row"]] == ["lsq [epochs=90]"]


def test_rows_name_the_setting_in_which_runs_of_one_cell_differ(tmp_path, lines):
    for lr, accuracy in ((0.1, 80.0), (0.02, 90.0)):
        for seed in range(2):
            make_run(tmp_path / f"{lr}-{seed}", lr=lr, seed=seed, test_top1=accuracy + seed)
    ours = {line["row"]: float(line["top1_mean"]) for line in lines(tmp_path)["ours"]}
    assert ours == {"lsq [lr=0.1]": 80.5, "lsq [lr=0.02]": 90.5}


def test_float_runs_are_the_baseline_or_a_row_of_their_own(tmp_path, lines):
    for seed in range(2):
        make_run(tmp_path / f"q{seed}", seed=seed, test_top1=90.0 + seed, float_test_top1=None)
        make_run(tmp_path / f"f{seed}", seed=seed, test_top1=95.0 + seed, **FLOAT | {"float_test_top1": None})
        make_run(tmp_path / f"t{seed}", seed=seed, test_top1=97.0 + seed, **FLOAT | {"float_test_top1": 95.0 + seed})
    found = lines(tmp_path)
    assert {line["row"]: float(line["top1_mean"]) for line in found["float"]} == {
        "float baseline": 95.5,
        "float, trained on": 97.5,
    }
    assert [float(line["difference"]) for line in found["ours"]] == [-5.0]


def test_published_numbers_stand_apart_with_source_baseline_and_policy(tmp_path, lines, capsys):
    known = {"data_known": "cifar10", "image_size": 32}
    make_run(tmp_path / "ours", data="cifar10", model="resnet20", method="pact", test_top1=88.0, **known)
    found = lines(tmp_path)
    assert [(line["row"], float(line["top1_mean"])) for line in found["ours"]] == [("pact", 88.0)]
    theirs = [line for line in found["published"] if line["row"].startswith("PACT") and line["weight_bits"] == "2"]
    facts = {(float(line["top1_mean"]), float(line["float_top1"]), line["first_last"]) for line in theirs}
    assert {(89.7, 91.6, "fp32"), (88.9, 91.6, "8")} <= facts
    assert all("1805.06085" in line["source"] and line["n"] == "" and line["best"] == "" for line in theirs)
    report.main([str(tmp_path), "--format", "markdown"])
    ours, _, published = capsys.readouterr().out.partition("Published by others: not ours")
    assert "88.00" in ours
    assert "89.70" not in ours
    assert "89.70" in published
    assert "published" not in lines(tmp_path, "--no-published")


@pytest.mark.parametrize("form", ["terminal", "markdown", "latex"])
def test_best_is_marked_and_names_are_escaped(runs, capsys, form):
    for seed in range(2):
        make_run(runs / f"double{seed}", method="double_st", seed=seed, test_top1=10.0)
    report.main([str(runs), "--format", form])
    text = capsys.readouterr().out
    best = {"terminal": r"\*91\.05 ± 0\.9\d", "markdown": r"\*\*91\.05 ± 0\.9\d\*\*", "latex": r"textbf{91\.05"}[form]
    assert re.search(best, text)
    assert not re.search(best.replace("91", "90").replace("05", "47"), text)
    name = {"terminal": "double_st", "markdown": r"double\_st", "latex": r"double\_st"}[form]
    assert name in text
    if form == "latex":
        assert r"\toprule" in text
        assert len(re.findall(r"(?<!\\)[{]", text)) == len(re.findall(r"(?<!\\)[}]", text))


def test_two_thousand_results_take_seconds(tmp_path, capsys):
    for i in range(2000):
        setting, seed = divmod(i, 25)
        values = {"weight_bits": 1 + setting % 4, "method": f"m{setting // 4}", "test_top1": 50.0 + i % 7}
        make_run(tmp_path / str(i), lr=0.1, seed=seed, **values)
    start = time.monotonic()
    report.main([str(tmp_path), "--format", "csv"])
    assert time.monotonic() - start < 10
    assert capsys.readouterr().out.count("\nours,") == 80


def test_equal_differences_give_no_interval(tmp_path, lines):
    for seed in range(3):
        make_run(tmp_path / f"a{seed}", seed=seed, test_top1=80.1 + seed)
        make_run(tmp_path / f"b{seed}", seed=seed, test_top1=81.3 + seed, method="pact")
    (line,) = lines(tmp_path, "--against", "lsq")["comparison"]
    assert float(line["difference"]) == pytest.approx(1.2)
    assert (line["low"], line["high"], line["p"], line["p_holm"]) == ("", "", "", "")
