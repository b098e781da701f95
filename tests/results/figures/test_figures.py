"""What is drawn is what the files hold; files that are cut off are told, not drawn."""

import json
import statistics

import pytest

from stq.cli import report
from stq.errors import InputError
from stq.results.figures.accuracy import accuracy_pictures
from stq.results.figures.layers import layer_pictures
from stq.results.runs.collect import collect
from stq.results.runs.metrics import read_codes, read_metrics
from stq.results.runs.result_file import read_result, write_result
from stq.results.runs.run import Run
from stq.results.tables.groups import make_groups
from tests.made_up_runs import make_run

TOP1 = {("lsq", 2): (90.0, 92.0), ("lsq", 3): (93.0, 93.5), ("st", 2): (80.0, 85.0), ("st", 3): (94.0, 95.0)}
METRICS = """epoch,val_top1,train_loss,step/conv1,threshold_min/conv1,threshold_max/conv1,gain_min/conv1,gain_max/conv1
0,{first},,0.5,0.1,0.9,0.9,1.2
0,,2.5,,,,,
1,{second},,0.4,0.2,0.8,0.8,1.3
1,,nan,,,,,
2,99.9,,9,9,9,9,9
"""
CODES = {
    "conv1": {
        "codes": [0, 1, 2, 3],
        "share": [0.4, 0.3, 0.2, 0.1],
        "thresholds": [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.8, 0.9, 1.0]],
        "gain": [0.8, 1.2],
    }
}


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    for (method, bits), accuracies in TOP1.items():
        for seed, accuracy in enumerate(accuracies):
            run = make_run(
                folder / f"{method}{bits}{seed}",
                method=method,
                weight_bits=bits,
                activation_bits=bits,
                seed=seed,
                test_top1=accuracy,
                epochs=2,
                size_bytes=1024 * bits,
            )
            (run / "metrics.csv").write_text(METRICS.format(first=seed, second=10 * bits + seed))
            (run / "codes.json").write_text(json.dumps(CODES))
    return folder


def pictures(folder, draw=accuracy_pictures, *more):
    (group,) = make_groups(collect([folder]).done)
    return {picture.name: picture for picture in draw(group, "g", *more)}


def test_points_and_bars_are_means_and_deviations(runs):
    found = pictures(runs)
    assert set(found) == {"g_bits", "g_size", "g_curves"}  # no result holds bit operations
    bars = {each.get_label(): each for each in found["g_bits"].figure.axes[0].containers}
    for method in ("lsq", "st"):
        line, _, (spreads,) = bars[method].lines
        expected = [TOP1[method, 2], TOP1[method, 3]]
        assert list(line.get_ydata()) == pytest.approx(list(map(statistics.mean, expected)))
        heights = [segment[1][1] - segment[0][1] for segment in spreads.get_segments()]
        assert heights == pytest.approx([2 * statistics.stdev(values) for values in expected])
    sizes = found["g_size"].figure.axes[0].containers[0].lines[0].get_xdata()
    assert list(sizes) == pytest.approx([2.0, 3.0])  # KiB
    assert "float baseline (60.00 %)" in found["g_bits"].svg()


def test_bit_operations_are_drawn_where_results_have_them(runs):
    for path in runs.rglob("result.json"):
        write_result(path.parent, read_result(path) | {"bops": 5e9})
    line = pictures(runs)["g_bops"].figure.axes[0].containers[0].lines[0]
    assert list(line.get_xdata()) == pytest.approx([5.0, 5.0])  # 10^9


def test_curves_are_means_over_seeds_of_the_epochs_trained(runs):
    axes = pictures(runs)["g_curves"].figure.axes
    line = axes[0].get_lines()[0]  # validation top-1 at 2 bits; the third epoch evaluates the selected checkpoint
    assert list(line.get_xdata()) == [1, 2]
    assert list(line.get_ydata()) == pytest.approx([0.5, 20.5])
    loss = axes[2].get_lines()[0]
    assert list(loss.get_ydata()) == [2.5]  # nan is not drawn


def test_layers_of_the_best_or_of_the_chosen_row(runs):
    found = pictures(runs, layer_pictures, None)
    assert "lsq at 2/2 bits, seed 0" in found["g_w2a2_codes"].text
    assert "st at 3/3 bits, seed 0" in found["g_w3a3_thresholds"].text
    (stairs,) = [each for each in found["g_w2a2_codes"].figure.axes[0].patches if hasattr(each, "get_data")]
    assert list(stairs.get_data().values) == pytest.approx([40, 30, 20, 10])
    assert list(stairs.get_data().edges[1:-1]) == pytest.approx([0.2, 0.5, 0.9])
    spans = found["g_attention"].figure.axes[0].collections[0].get_segments()
    assert [[y for _, y in span] for span in spans] == [pytest.approx([0.8, 1.3])]  # at the end of training
    (group,) = make_groups(collect([runs]).done)
    chosen = {picture.name: picture for picture in layer_pictures(group, "g", group.rows[1])}
    assert "st at 2/2 bits" in chosen["g_w2a2_codes"].text


def test_files_cut_off_are_told(runs):
    folder = runs / "lsq20"
    run = Run(folder / "result.json", json.loads((folder / "result.json").read_text()))
    (folder / "metrics.csv").write_text(METRICS.format(first=1, second=2)[:-8])
    with pytest.raises(InputError, match=r"metrics\.csv, line 6 is cut off"):
        read_metrics(run, ("val_top1",))
    (folder / "codes.json").write_text(json.dumps(CODES)[:-20])
    with pytest.raises(InputError, match=r"codes\.json is not readable"):
        read_codes(run)
    (folder / "codes.json").write_text(json.dumps({"conv1": CODES["conv1"] | {"share": [1.0]}}))
    with pytest.raises(InputError, match="not one share for each code"):
        read_codes(run)


def test_output_holds_every_format_and_figure(runs, tmp_path, capsys):
    out = tmp_path / "out"
    report.main([str(runs), "--output", str(out)])
    assert {path.name for path in out.iterdir()} == {"report.md", "report.tex", "report.csv", "report.html", "figures"}
    names = {path.stem for path in (out / "figures").glob("*.svg")}
    assert {name.removeprefix("digits_resnet8_400_fl8_") for name in names} == {
        *("bits", "size", "curves", "attention"),
        *("w2a2_codes", "w2a2_thresholds", "w3a3_codes", "w3a3_thresholds"),
    }
    assert {path.stem for path in (out / "figures").glob("*.pdf")} == names
    capsys.readouterr()
    with pytest.raises(SystemExit):
        report.main([str(runs), "--output", str(tmp_path / "none"), "--layers", "ts"])
    assert "there is no row 'ts'" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
