"""The process that stops children whose parent vanished; see processes.py.

Reads `+PID SIGNAL` and `-PID` lines from its standard input. At the end of input
the parent is gone: each process group still listed gets its signal, and SIGKILL
should it be there 5 s later.
"""

import contextlib
import os
import signal
import sys
import time

GRACE = 5.0  # s


def main() -> None:
    groups: dict[int, int] = {}
    for line in sys.stdin:
        if line.startswith("+"):
            pid, number = line[1:].split()
            groups[int(pid)] = int(number)
        else:
            groups.pop(int(line[1:]), None)
    _stop(groups)


def _stop(groups: dict[int, int]) -> None:
    for pid, number in groups.items():
        _send(pid, signal.SIGCONT)
        _send(pid, number)
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline and any(_send(pid, 0) for pid in groups):
        time.sleep(0.05)
    for pid in groups:
        _send(pid, signal.SIGKILL)


def _send(pid: int, number: int) -> bool:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
        return True
    return False


if __name__ == "__main__":
    main()
