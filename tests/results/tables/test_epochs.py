"""Accuracy by epoch against a row, from metrics.csv written by hand."""

from pathlib import Path

import pytest

from stq.results.formats import render
from stq.results.runs.collect import collect
from stq.results.tables.groups import make_groups
from stq.results.tables.report_table import make_sheets
from tests.made_up_runs import make_run

BY_EPOCH = {"lsq": ([50, 60, 70], [52, 64, 72]), "pact": ([60, 71, 72], [61, 73, 74]), "dorefa": ([40, 50, 60],) * 2}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for method, seeds in BY_EPOCH.items():
        for seed, values in enumerate(seeds):
            run = make_run(tmp_path / f"{method}{seed}", method=method, seed=seed, test_top1=values[-1] / 100)
            lines = [f"{epoch},{value}" for epoch, value in enumerate(values)]
            (run / "metrics.csv").write_text("epoch,val_top1\n" + "\n".join(lines) + "\n")
    return tmp_path


def test_the_first_epoch_at_the_last_of_the_reference(runs):
    (sheet,) = make_sheets(make_groups(collect([runs]).done), {}, "lsq")
    found = {line.row: (line.validation, line.reached) for line in sheet.epochs}
    assert found == {
        "lsq": ((51, 62, 71), 3),
        "pact": ((60.5, 72, 73), 2),
        "dorefa": ((40, 50, 60), None),
    }
    assert {line.target for line in sheet.epochs} == {71}
    assert sheet.epochs[0].row == "lsq"
    for name in ("terminal", "markdown"):
        shown = render(name, [sheet], [])
        assert "epoch at lsq's last" in shown
        assert "60.5 72.0 73.0" in shown


def test_nothing_without_a_row_to_compare_with_or_metrics(runs):
    (sheet,) = make_sheets(make_groups(collect([runs]).done), {})
    assert sheet.epochs == ()
    (runs / "lsq1" / "metrics.csv").unlink()
    (sheet,) = make_sheets(make_groups(collect([runs]).done), {}, "lsq")
    assert sheet.epochs == ()
