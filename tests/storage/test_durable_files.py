"""A write succeeds whole or leaves what was there; a full disk is one sentence."""

import errno
import os
import resource
import subprocess
import sys
import textwrap

import pytest

from stq.errors import StorageFailed
from stq.storage.durable_files import write_durably, write_text_durably


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_failing_disk_is_told_and_loses_nothing(number, moment, tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_text_durably(path, "before")

    def fails(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(f"os.{moment}", fails)
    if moment == "replace":
        monkeypatch.setattr("pathlib.Path.replace", fails)
    with pytest.raises(StorageFailed, match=f"{os.strerror(number).lower()}. What was there before is intact"):
        write_text_durably(path, "after")
    assert path.read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == ["result.json"]


def test_whatever_interrupts_a_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "x"
    write_text_durably(path, "before")

    def write(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_durably(path, write)
    assert path.read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == ["x"]


def test_a_run_on_a_disk_that_is_full_ends_with_one_sentence_and_goes_on_later(tmp_path):
    """The limit on a file's size stands for the disk: a checkpoint does not fit."""
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(
            """
        import resource, signal, sys
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limit = int(sys.argv.pop(1))
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        from stq.cli.train import main
        main()
        """
        ),
    ]
    settings = ["init=scratch", "model.width=4", "trainer.max_epochs=2", "trainer.accelerator=cpu", "threads=1"]
    settings += [f"paths.runs={tmp_path}", f"hydra.run.dir={tmp_path}/run"]

    def start(limit):
        return subprocess.run([*command, str(limit), *settings], capture_output=True, text=True, cwd=tmp_path)

    full = start(20_000)
    assert full.returncode == 2
    (line,) = [line for line in full.stderr.splitlines() if line.startswith("error: ")]
    assert "could not be written: file too large. What was there before is intact" in line
    assert "Traceback" not in full.stderr
    assert not list((tmp_path / "run").rglob("*.part"))
    assert start(0).returncode == 0
    assert (tmp_path / "run" / "result.json").is_file()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20_000
