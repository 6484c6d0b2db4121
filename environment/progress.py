"""The one door through which the environment talks to the person at the terminal.

Long steps show how long they have taken: live on a terminal, and as a line every
30 s elsewhere, so that a CI log shows life. A failure is one sentence that says
what to do, with the end of the log and its path where there is one.
"""

import contextlib
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

QUIET_INTERVAL = 30.0  # s between signs of life when nobody watches live
TAIL_LINES = 25


class Failure(Exception):
    """Something the environment needs did not work; the text says what to do."""


def say(text: str = "") -> None:
    """Print one line at once, also into a pipe."""
    print(text, flush=True)


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Show that `title` is under way, and how long it took."""
    started = time.monotonic()
    finished = threading.Event()
    live = sys.stdout.isatty()
    ticker = threading.Thread(
        target=_tick, args=(title, started, finished, live), daemon=True
    )
    if not live:
        say(f"→ {title} …")
    ticker.start()
    outcome = "failed after"
    try:
        yield
        outcome = "done in" if not live else ""
    finally:
        finished.set()
        ticker.join()
        elapsed = duration(time.monotonic() - started)
        if live:
            print(f"\r\x1b[K→ {title} … {outcome} {elapsed}".replace("  ", " "))
            sys.stdout.flush()
        else:
            say(f"  {title}: {outcome} {elapsed}")


def _tick(title: str, started: float, finished: threading.Event, live: bool) -> None:
    interval = 1.0 if live else QUIET_INTERVAL
    while True:
        elapsed = duration(time.monotonic() - started)
        if live:
            print(f"\r\x1b[K→ {title} … {elapsed}", end="", flush=True)
        if finished.wait(interval):
            return
        if not live:
            say(f"  {title}: {duration(time.monotonic() - started)} so far")


def duration(seconds: float) -> str:
    """Return `seconds` as a person says it: 0.4s, 12s, 2m10s."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def run_logged(
    command: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> None:
    """Run `command` with its output in `log`.

    :param log: appended to; its folder is made
    :raise Failure: the command failed; with the end of the log
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        try:
            code = subprocess.run(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=cwd,
                check=False,
            ).returncode
        except FileNotFoundError as exc:
            raise Failure(f"The program {command[0]} is missing.") from exc
    if code:
        name = " ".join(str(word) for word in command[:4])
        raise Failure(f"`{name} …` failed (exit code {code}).\n{log_tail(log)}")


def log_tail(log: Path, lines: int = TAIL_LINES) -> str:
    """Return the last `lines` of `log`, under its path."""
    if not log.exists():
        return f"There is no log at {log}."
    with log.open(errors="replace") as content:
        tail = deque(content, maxlen=lines)
    body = "".join(f"    {line.rstrip()[:500]}\n" for line in tail)
    return f"The end of {log}:\n{body or '    (empty)'}"
