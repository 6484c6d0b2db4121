"""What tests and benchmarks need before they start, made with progress to be seen.

pytest captures what is printed while tests run; so the long first-time steps happen
here, before it starts.
"""

import os
import sys
from collections.abc import Callable

from .browser import chromium
from .control_plane_build import PROGRAMS, program
from .odoo import OdooInstall
from .paths import CHECKOUT
from .postgres import server_binaries

PREPARATIONS: dict[str, Callable[[], object]] = {
    "odoo": OdooInstall.ensure,
    "postgres": server_binaries,
    "control_plane": lambda: [program(name) for name in PROGRAMS],
    "browser": chromium,
}
RINGS = ("unit", "environment", "integration", "browser", "faults")


def prepare(*names: str) -> None:
    """Download, build or install what the named parts need: keys of PREPARATIONS."""
    for name in names:
        PREPARATIONS[name]()


def run_tests(arguments: list[str]) -> None:
    """Become pytest on the whole suite but what takes minutes; does not return.

    :param arguments: for pytest; paths among them replace the suite
    """
    prepare(*PREPARATIONS)
    folders = _folders(arguments, RINGS)
    _become("-m", "pytest", *("-m", "not long"), *folders, *arguments)


def run_faults(arguments: list[str]) -> None:
    """Become pytest on all faults, also those that take minutes; does not return.

    :param arguments: for pytest; paths among them replace the ring
    """
    prepare("odoo", "postgres", "control_plane")
    _become("-m", "pytest", *_folders(arguments, ("faults",)), *arguments)


def run_unit_tests(arguments: list[str]) -> None:
    """Become pytest on what needs no Odoo and no cluster; does not return."""
    _become("-m", "pytest", *_folders(arguments, ("unit",)), *arguments)


def run_benchmarks(arguments: list[str]) -> None:
    """Become the benchmarks; does not return."""
    prepare("odoo", "postgres", "control_plane")
    _become("-m", "benchmarks", *arguments)


def _folders(arguments: list[str], rings: tuple[str, ...]) -> list[str]:
    if any((CHECKOUT / word.split("::")[0]).exists() for word in arguments):
        return []
    folders = [f"tests/{ring}" for ring in rings]
    return [folder for folder in folders if (CHECKOUT / folder).is_dir()]


def _become(*arguments: str) -> None:
    sys.stdout.flush()
    os.chdir(CHECKOUT)
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606
