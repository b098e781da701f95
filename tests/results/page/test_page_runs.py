"""The page's list of runs, without a browser: what a row shows and what it is sorted by."""

import re

from stq.cli import report
from tests.made_up_runs import make_run


def test_each_run_has_its_own_difference_to_float(tmp_path):
    make_run(tmp_path / "worse", test_top1=57.5, size_bytes=2048)
    make_run(tmp_path / "bad", seed=1, status="failed", error="it failed", test_top1=None)
    page = tmp_path / "report.html"
    report.main([str(tmp_path), "--html", str(page)])
    rows = page.read_text().splitlines()
    (row,) = [line for line in rows if ">worse</button>" in line]
    cells = dict(re.findall(r'data-label="([^"]+)" data-value="([^"]*)"', row))
    assert (cells["to float"], cells["test top-1 %"], cells["size KiB"]) == ("-2.5", "57.5", "2.0")
    assert ">−2.50</td>" in row
    (failed,) = [line for line in rows if ">bad</button>" in line]
    assert 'class="failed"' in failed
