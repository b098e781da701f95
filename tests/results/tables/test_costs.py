"""The table of costs: what each row costs beside the float network, in every format, against numbers made by hand."""

import csv
import io

import pytest

from stq.cli import report
from stq.results.runs.collect import collect
from stq.results.tables.costs import FLOAT_NETWORK, Cost, cost_lines
from stq.results.tables.groups import make_groups
from stq.results.tables.report_table import make_sheets
from tests.made_up_runs import FLOAT, make_run

FULL = {
    "float_size_bytes": 1024 * 80,
    "macs": 2_000_000,
    "float_bops": 2048_000_000,
    "float_activation_bytes": 1024 * 6,
}


def costs(bits: int, extra: int = 0) -> dict:
    return FULL | {"size_bytes": 1024 * 10 * bits + extra, "bops": 2_000_000 * bits**2, "activation_bytes": 1024 * bits}


@pytest.fixture
def runs(tmp_path):
    for bits in (3, 2):
        for method, extra in (("lsq", 0), ("double_st", 512), ("pact", 0)):
            for seed in range(2):
                values = {"method": method, "seed": seed, "weight_bits": bits, "activation_bits": bits}
                make_run(tmp_path / f"{method}{bits}{seed}", lr=0.1, **values, **costs(bits, extra))
    return tmp_path


def lines(folder):
    (group,) = make_groups(collect([folder]).done)
    return cost_lines(group)


def test_each_distinct_cost_is_one_line_beside_the_float_network(runs):
    found = lines(runs)
    assert [(line.rows, line.bits) for line in found] == [
        ((FLOAT_NETWORK,), (32, 32)),
        (("double_st",), (2, 2)),
        (("lsq", "pact"), (2, 2)),
        (("double_st",), (3, 3)),
        (("lsq", "pact"), (3, 3)),
    ]
    assert found[0].cost == Cost(81920, 2_000_000, 2_048_000_000, 6144)
    assert found[2].cost == Cost(20480, 2_000_000, 8_000_000, 2048)
    assert found[2].ratios == pytest.approx(Cost(4, 1, 256, 3))
    assert found[3].ratios == pytest.approx(Cost(81920 / (30720 + 512), 1, 1024 / 9, 2))


def test_only_what_is_known_is_shown(tmp_path, capsys):
    make_run(tmp_path / "a", size_bytes=10240, float_size_bytes=81920)
    (full, ours) = lines(tmp_path)
    assert (full.cost, ours.cost) == (Cost(81920, None, None, None), Cost(10240, None, None, None))
    report.main([str(tmp_path)])
    out = capsys.readouterr().out
    assert "10.0 (8.00×)" in out
    assert "MACs, 10" not in out
    make_run(tmp_path / "b", method="none_of_it", size_bytes=None, float_size_bytes=81920)
    assert [line.rows for line in lines(tmp_path)] == [(FLOAT_NETWORK,), ("lsq",)]


def test_a_newer_result_speaks_for_the_older_seeds_of_its_row_only(runs):
    make_run(runs / "old", lr=0.1, seed=7, size_bytes=20480, float_size_bytes=81920)
    make_run(runs / "other", lr=0.1, method="st", seed=7, size_bytes=20480, float_size_bytes=81920)
    found = {line.rows: line.cost for line in lines(runs) if line.bits == (2, 2)}
    assert found["lsq", "pact"] == Cost(20480, 2_000_000, 8_000_000, 2048)
    assert found[("st",)] == Cost(20480, None, None, None)


def test_seeds_of_unlike_cost_have_none_and_a_note(runs):
    make_run(runs / "unlike", lr=0.1, seed=7, **costs(2) | {"bops": 9})
    (sheet,) = make_sheets(make_groups(collect([runs]).done), {})
    found = {line.rows: line.cost for line in sheet.costs if line.bits == (2, 2)}
    assert found[("lsq",)] == Cost(20480, 2_000_000, None, 2048)
    assert "The seeds of lsq at 2/2 bits differ in bops: none is given." in sheet.notes


def test_float_runs_alone_show_what_the_network_costs(tmp_path):
    values = FLOAT | {"float_test_top1": None} | FULL | {"size_bytes": 81920, "bops": FULL["float_bops"]}
    make_run(tmp_path / "f", **values)
    assert [(line.rows, line.cost.bops) for line in lines(tmp_path)] == [((FLOAT_NETWORK,), 2_048_000_000)]


CELLS = {
    "terminal": ("20.0 (4.00×)", "8 (256.00×)", "2 (3.00×)", "lsq, pact", "float network", "2,048.0"),
    "markdown": ("| lsq, pact | 2/2 | 20.0 (4.00×) | 2 | 8 (256.00×) | 2 (3.00×) |", r"| double\_st | 2/2 |"),
    "latex": (r"lsq, pact & 2/2 & 20.0 (4.00$\times$) & 2 & 8 (256.00$\times$) & 2 (3.00$\times$) \\", "MACs, 10$^6$"),
    "html": (
        '<th scope="row">lsq, pact</th><td>2/2</td><td>20.0 (4.00×)</td><td>2</td><td>8 (256.00×)</td>',
        '<th scope="row">float network</th><td>32/32</td><td>80.0</td><td>2</td><td>2,048.0</td><td>6</td>',
    ),
}


@pytest.mark.parametrize("form", CELLS)
def test_every_format_shows_the_same_cells(runs, capsys, form, tmp_path_factory):
    page = tmp_path_factory.mktemp("page") / "report.html"
    report.main([str(runs), *(["--html", str(page)] if form == "html" else ["--format", form])])
    out = page.read_text() if form == "html" else capsys.readouterr().out
    for cell in CELLS[form]:
        assert cell in out


def test_csv_has_the_cost_of_each_cell(runs, capsys):
    make_run(runs / "f", lr=0.1, seed=0, **FLOAT | {"float_test_top1": None} | FULL | {"size_bytes": 81920})
    report.main([str(runs), "--format", "csv"])
    found = {}
    for line in csv.DictReader(io.StringIO(capsys.readouterr().out)):
        numbers = [line[key] for key in ("size_bytes", "macs", "bops", "activation_bytes")]
        found[line["kind"], line["row"], line["weight_bits"]] = numbers
    assert found["ours", "pact", "2"] == ["20480", "2000000", "8000000", "2048"]
    assert found["ours", "double_st", "3"] == ["31232", "2000000", "18000000", "3072"]
    assert found["float", "float baseline", "32"] == ["81920", "2000000", "2048000000", "6144"]


def test_rows_that_are_many_and_alike_are_counted(tmp_path, capsys):
    for i in range(7):
        make_run(tmp_path / f"m{i}", lr=0.1, method=f"m{i}", **costs(2))
    report.main([str(tmp_path), "--format", "markdown"])
    assert "| all 7 rows | 2/2 |" in capsys.readouterr().out
