"""What the machine itself has to offer: its programs, and apt to get missing ones."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .cache import build_log
from .progress import Failure, run_logged, step


def is_root() -> bool:
    return os.geteuid() == 0


def find_program(*names: str) -> Path | None:
    """Return the first of `names` that is on PATH."""
    found = next((path for name in names if (path := shutil.which(name))), None)
    return Path(found) if found else None


def install_packages(packages: Sequence[str], *, otherwise: str) -> None:
    """Install Debian packages into the system, where this user may.

    :param otherwise: what a person can do instead, one sentence
    :raise Failure: there is no apt, or this is not root
    """
    names = " ".join(packages)
    if not is_root() or not find_program("apt-get"):
        raise Failure(
            f"Missing here: {names}. On Debian, `sudo apt-get install {names}` brings"
            f" it. {otherwise}"
        )
    log = build_log("apt")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with step(f"Installing {names} with apt"):
        run_logged(["apt-get", "update"], log=log, env=env)
        run_logged(
            ["apt-get", "install", "-y", "--no-install-recommends", *packages],
            log=log,
            env=env,
        )


def output_of(command: Sequence[str | Path], *, timeout: float = 60.0) -> str:
    """Return what `command` prints, or "" when it fails."""
    try:
        return subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
