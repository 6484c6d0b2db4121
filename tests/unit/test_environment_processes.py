"""Child processes end with, and say why they ended to, whoever started them."""

import os
import signal
import subprocess
import sys
import textwrap

import psutil
import pytest

from environment.paths import CHECKOUT
from environment.processes import (
    Process,
    free_port,
    remembered_port,
    wait_until,
)
from environment.progress import Failure, duration

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


@pytest.fixture
def sleeper(tmp_path):
    process = Process("sleeper", SLEEP, log=tmp_path / "sleeper.log")
    process.start()
    process.wait_for_output("up", timeout=10)
    yield process
    process.kill()


def test_stop_ends_the_process(sleeper):
    pid = sleeper.pid
    sleeper.stop()
    assert not sleeper.running
    assert not psutil.pid_exists(pid)


def test_stop_ends_a_frozen_process(sleeper):
    sleeper.freeze()
    sleeper.stop()
    assert not sleeper.running


def test_process_deaf_to_the_signal_is_killed(tmp_path):
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('up', flush=True); time.sleep(600)"
    )
    process = Process("deaf", [sys.executable, "-c", code], log=tmp_path / "deaf.log")
    process.start()
    process.wait_for_output("up", timeout=10)
    process.stop(timeout=0.1)
    assert not process.running


def test_waiting_for_a_process_that_ended_shows_its_last_words(tmp_path):
    code = "print('no such table'); raise SystemExit(3)"
    process = Process("broken", [sys.executable, "-c", code], log=tmp_path / "log")
    process.start()
    with pytest.raises(Failure, match=r"broken ended \(exit code 3\)") as failure:
        process.wait_for_output("up", timeout=10)
    assert "no such table" in str(failure.value)
    process.stop()


def test_waiting_in_vain_says_what_was_seen_last():
    with pytest.raises(Failure, match="for a miracle; last: ZeroDivisionError"):
        wait_until(lambda: bool(1 / 0), what="a miracle", timeout=0.1)


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "pass"])
def test_children_do_not_outlive_their_parent(tmp_path, end):
    code = f"""
        import os, signal, sys
        from pathlib import Path
        from environment.processes import Process
        child = Process("child", {SLEEP!r}, log=Path({str(tmp_path / "log")!r}))
        child.start()
        child.wait_for_output("up", timeout=10)
        print(child.pid, flush=True)
        {end}
    """
    parent = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=CHECKOUT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert parent.returncode in (0, -signal.SIGKILL), parent.stderr
    pid = int(parent.stdout)
    wait_until(lambda: not _alive(pid), what="the child to be gone", timeout=10)


def _alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_remembered_port_is_used_again_while_it_is_free(tmp_path):
    port = remembered_port(tmp_path / "port")
    assert remembered_port(tmp_path / "port") == port


def test_taken_port_is_replaced(tmp_path):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4s"), (12.3, "12s"), (59.7, "1m00s"), (130, "2m10s")],
)
def test_durations_read_aloud(seconds, text):
    assert duration(seconds) == text
