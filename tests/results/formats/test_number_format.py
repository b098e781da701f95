"""How numbers are written: what rounds to nothing has no sign, a small p is not zero, unequal numbers of seeds show."""

import pytest

from stq.cli import report
from stq.results.formats.number_format import DASH, comparison_cells, first_last, signed
from stq.results.tables.report_table import Comparison
from stq.results.tables.significance import Paired
from tests.made_up_runs import make_run


@pytest.mark.parametrize(
    ("value", "text"), [(0.004, "0.00"), (-0.004, "0.00"), (-0.4, "−0.40"), (1.236, "+1.24"), (None, DASH)]
)
def test_signs(value, text):
    assert signed(value) == text


@pytest.mark.parametrize(("p", "text"), [(0.0004, "<0.001"), (0.001, "0.001"), (0.0456, "0.046"), (1.0, "1.000")])
def test_probabilities(p, text):
    cells = comparison_cells(Comparison((2, 4), "st", "lsq", Paired(3, -0.5, -1.0, 0.004, p), p))
    assert cells == ["2/4", "st against lsq", "3", "−0.50", "[−1.00, 0.00]", text, text]


@pytest.mark.parametrize(("policy", "text"), [("", "?"), ("fp32", "float"), ("32", "float"), ("8", "8 bits")])
def test_policies(policy, text):
    assert first_last(policy) == text


def test_n_stands_in_the_cells_only_where_it_is_not_the_same(tmp_path, capsys):
    for seed in range(2):
        make_run(tmp_path / f"a{seed}", seed=seed, test_top1=50.0 + seed)
    report.main([str(tmp_path), "--format", "markdown"])
    text = capsys.readouterr().out
    assert "| lsq | 50.50 ± 0.71 (−9.50) |" in text
    assert "over 2 seeds" in text
    assert "is in bold" not in text  # one row is not the best of anything
    make_run(tmp_path / "b", method="pact", test_top1=50.0)
    report.main([str(tmp_path), "--format", "markdown"])
    text = capsys.readouterr().out
    assert "| lsq | **50.50 ± 0.71** (−9.50, n = 2) |" in text
    assert "| pact | 50.00 (−10.00, n = 1) |" in text
    assert "over n seeds" in text
