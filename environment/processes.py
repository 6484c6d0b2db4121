"""Child processes that never outlive the run that started them.

Each child leads a process group of its own and writes to a log file. Stopping asks
the group politely, then kills it. Should this process die in any way, SIGKILL
included, the reaper (one small process that reads a pipe from here, and sees it
close) stops what is left. PR_SET_PDEATHSIG would not do: it fires when the *thread*
that started the child ends, and tests start children from threads.
"""

import atexit
import contextlib
import os
import pwd
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .progress import Failure, log_tail

STOP_TIMEOUT = 10.0  # s from the polite signal to SIGKILL
POLL_INTERVAL = 0.05  # s


def free_port(preferred: int = 0) -> int:
    """Return a TCP port that is free on 127.0.0.1: `preferred` if it is."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise Failure("There is no free TCP port on 127.0.0.1.")


def remembered_port(path: Path, preferred: int = 0) -> int:
    """Return a free port, the one written in `path` if possible, and write it there.

    An address that a person has open in a browser should survive a restart.
    """
    if not preferred and path.exists():
        preferred = int(path.read_text())
    port = free_port(preferred)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{port}\n")
    return port


def wait_until(
    condition: Callable[[], bool],
    *,
    what: str,
    timeout: float,
    process: "Process | None" = None,
) -> None:
    """Wait until `condition()` holds.

    :param what: what is waited for, for the error
    :param timeout: in seconds
    :param process: give up as soon as it has ended
    :raise Failure: it does not hold in time; with the last error and log lines
    """
    deadline = time.monotonic() + timeout
    seen = "nothing"
    while True:
        if process is not None and not process.running:
            raise Failure(
                f"{process.name} ended (exit code {process.returncode}) while waiting"
                f" for {what}.\n{log_tail(process.log)}"
            )
        try:
            if condition():
                return
            seen = "not yet"
        except Exception as exc:  # noqa: BLE001 - any failure is "not yet"
            seen = f"{type(exc).__name__}: {exc}"[:500]
        if time.monotonic() > deadline:
            tail = log_tail(process.log) if process is not None else ""
            raise Failure(f"Waited {timeout:.0f} s for {what}; last: {seen}.\n{tail}")
        time.sleep(POLL_INTERVAL)


class Process:
    """One child process with its group, its log and its way to stop."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        """
        :param env: the whole environment; this process's own when None
        :param user: the account to run as; only root can choose
        :param stop_signal: the polite one
        """
        self.name = name
        self.command = [str(word) for word in command]
        self.log = log
        self.env = env
        self.cwd = cwd
        self.user = user
        self.stop_signal = stop_signal
        self._popen: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def __repr__(self) -> str:
        return f"<Process {self.name} pid={self.pid}>"

    @property
    def pid(self) -> int | None:
        return self._popen.pid if self._popen else None

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        return self._popen.poll() if self._popen else None

    def start(self) -> None:
        """Start it; the log is appended to."""
        if self.running:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._log_start = output.tell()
            self._popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if self.env is None else dict(self.env),
                cwd=self.cwd or "/",
                start_new_session=True,
                **account_arguments(self.user),
            )
        _reaper.watch(self)

    def output(self) -> str:
        """Return what it has written to its log since it was started."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def wait_for_output(self, text: str, *, timeout: float) -> None:
        """Wait until it has written `text` since it was started.

        :param timeout: in seconds
        :raise Failure: it has not, or it has ended; with the end of its log
        """
        wait_until(
            lambda: text in self.output(),
            what=f"{self.name} to say {text!r}",
            timeout=timeout,
            process=self,
        )

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Ask it to end; after `timeout` seconds, kill it."""
        if self._popen is None:
            return
        self.send_to_group(signal.SIGCONT)
        self.send(self.stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """End it, and what it started, with SIGKILL."""
        if self._popen is None:
            return
        self.send_to_group(signal.SIGKILL)
        self._popen.wait()
        _reaper.forget(self)
        # The group may hold children that outlived their leader.
        self._popen = None

    def freeze(self) -> None:
        """Stop it from running without ending it (SIGSTOP)."""
        self.send_to_group(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process run on (SIGCONT)."""
        self.send_to_group(signal.SIGCONT)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        if self._popen is not None:
            self._popen.send_signal(number)

    def send_to_group(self, number: signal.Signals) -> None:
        """Send a signal to the process and all that it started."""
        if self._popen is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, number)


def account_arguments(user: str | None) -> dict[str, Any]:
    """Return what makes `subprocess` run a program as `user` (None: as we are)."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


class _Reaper:
    """This side of the reaper: tells it whom to stop should we vanish."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._popen: subprocess.Popen[bytes] | None = None
        self._watched: list[Process] = []

    def watch(self, process: Process) -> None:
        self._watched.append(process)
        self._tell(f"+{process.pid} {int(process.stop_signal)}\n")

    def forget(self, process: Process) -> None:
        self._watched.remove(process)
        self._tell(f"-{process.pid}\n")

    def _tell(self, line: str) -> None:
        with self._lock:
            if self._popen is None:
                self._popen = self._start()
            assert self._popen.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # killed: we go on without
                self._popen.stdin.write(line.encode())
                self._popen.stdin.flush()

    def _start(self) -> "subprocess.Popen[bytes]":
        atexit.register(self._finish)
        return subprocess.Popen(
            # Isolated, or the folder's `operator` would stand for Python's own.
            [sys.executable, "-S", "-I", Path(__file__).with_name("reaper.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def _finish(self) -> None:
        """Stop what nobody stopped, the newest first."""
        for process in reversed(self._watched.copy()):
            process.stop()
        assert self._popen is not None
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._popen.stdin.close()
        self._popen.wait()


_reaper = _Reaper()
