"""Who works in a run folder: one process at a time, and never a dead one."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from stq.errors import InputError
from stq.storage.run_lock import run_lock

HOLD = """
import sys, time
from pathlib import Path
from stq.storage.run_lock import run_lock
with run_lock(Path(sys.argv[1]), wait=False):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_by_name_and_takes_over_from_a_dead_one(holder, tmp_path):
    with (
        pytest.raises(InputError, match=f"is being worked on by process {holder.pid} on {socket.gethostname()}"),
        run_lock(tmp_path, wait=False),
    ):
        pass
    holder.kill()
    holder.wait()
    with run_lock(tmp_path, wait=False):
        assert json.loads((tmp_path / ".owner.json").read_text())["pid"] == os.getpid()
    assert not (tmp_path / ".owner.json").exists()


def test_waiting_ends_when_the_other_is_gone(holder, tmp_path, capsys):
    holder.send_signal(9)
    with run_lock(tmp_path, wait=True):
        holder.wait()


@pytest.mark.parametrize(("silent", "free"), [(5, False), (600, True)])
def test_a_holder_on_another_host_is_known_by_its_heartbeat(silent, free, tmp_path):
    owner = tmp_path / ".owner.json"
    owner.write_text(json.dumps({"pid": 1, "host": "elsewhere", "begun": None}))
    os.utime(owner, (time.time() - silent,) * 2)
    if free:
        with run_lock(tmp_path, wait=False):
            pass
        return
    with pytest.raises(InputError, match="process 1 on elsewhere"), run_lock(tmp_path, wait=False):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', '{"pid": 999999999, "host": "HOST"}'])
def test_what_a_killed_writer_left_holds_nothing(content, tmp_path):
    (tmp_path / ".owner.json").write_text(content.replace("HOST", socket.gethostname()))
    os.utime(tmp_path / ".owner.json", (0, 0))
    with run_lock(tmp_path, wait=False):
        pass


def test_the_number_of_a_process_may_be_that_of_another_by_now(tmp_path):
    """Its time of birth tells them apart."""
    owner = {"pid": os.getppid(), "host": socket.gethostname(), "begun": "1"}
    (tmp_path / ".owner.json").write_text(json.dumps(owner))
    with run_lock(tmp_path, wait=False):
        pass


def test_a_process_may_hold_what_it_holds(tmp_path):
    with run_lock(tmp_path, wait=False):
        with run_lock(tmp_path, wait=False):
            pass
        assert (tmp_path / ".owner.json").exists()
