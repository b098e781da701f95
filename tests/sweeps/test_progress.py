"""What the parent of a sweep counts as its own."""

import json
import os

from stq.sweeps.job import SWEEP
from stq.sweeps.progress import Teller


def test_jobs_of_another_sweep_into_the_same_folder_are_not_counted(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(SWEEP, "")
    teller = Teller(tmp_path / ".jobs")
    teller.expect(2)
    for number, of in enumerate((os.environ[SWEEP], "another-machine-17", None)):
        report = {"folder": f"/runs/run{number}", "error": None, "value": 90.0 + number, "seconds": 1.0, "sweep": of}
        (tmp_path / ".jobs" / f"{number}_run{number}.json").write_text(json.dumps(report))
    teller.end()
    out = capsys.readouterr().out
    assert "run0: validation 90.00 %" in out
    assert "run1" not in out
    assert "[2/2, about 0 min left] run2: validation 92.00 %" in out
    assert len(teller.reports) == 2
