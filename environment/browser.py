"""Chromium, for browser tests and for the screenshots in the documentation."""

from pathlib import Path

from .progress import Failure
from .system import find_program, install_packages, is_root

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> Path:
    """Return the browser's path; install it with apt when it is not there.

    :raise Failure: it is missing and may not be installed
    """
    found = find_program(*NAMES)
    if found is None:
        install_packages(["chromium"], otherwise="Or put a Chromium on PATH.")
        found = find_program(*NAMES)
    if found is None:
        raise Failure("apt's chromium brought no program of that name; install one.")
    return found


def flags() -> list[str]:
    """Return the flags to start it with."""
    # Its sandbox does not work for root.
    return [*FLAGS, "--no-sandbox"] if is_root() else list(FLAGS)
