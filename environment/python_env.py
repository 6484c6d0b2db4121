"""The virtual environment with all that Odoo, the tests and the linters import.

Made once per lock file and Python version with plain `venv` and `pip`, both from the
system's Python; pip's own configuration (index, proxy, certificates) is the machine's.
"""

import os
import subprocess
import sys
from pathlib import Path

from . import cache
from .paths import CHECKOUT
from .progress import Failure, run_logged, step
from .system import install_packages

LOCK = CHECKOUT / "environment" / "requirements" / "dev.lock"
PYTHON_NEEDED = (3, 11)


def ensure_python() -> Path:
    """Return the virtual environment's `python`; make it first when it is not there.

    :raise Failure: this Python is too old, or the packages cannot be installed
    """
    if sys.version_info < PYTHON_NEEDED:
        raise Failure(
            f"Python {sys.version.split()[0]} is too old; 3.11 or newer is needed."
            " Name a newer one: `make PYTHON=python3.13 …`."
        )
    key = cache.fingerprint(LOCK, "{}.{}".format(*sys.version_info))
    return cache.entry(f"python-{key}", _make_environment) / "bin" / "python"


def inside_environment() -> bool:
    """Say whether this process runs in that virtual environment."""
    return (Path(sys.prefix) / LOCK.name).exists()


def install_tool(name: str, requirement: str) -> Path:
    """Return a virtual environment of its own that holds one package from PyPI."""

    def build(folder: Path) -> None:
        log = cache.build_log(name)
        with step(f"Installing {requirement} from PyPI"):
            _make_venv(folder, log)
            run_logged([*_pip(folder), "install", requirement], log=log)

    return cache.entry(f"tool-{name}-{cache.fingerprint(requirement)}", build)


def _make_environment(folder: Path) -> None:
    log = cache.build_log("python")
    with step("Installing the Python packages (about 2 minutes, once)"):
        _make_venv(folder, log)
        run_logged([*_pip(folder), "install", "--require-hashes", "-r", LOCK], log=log)
    (folder / LOCK.name).write_bytes(LOCK.read_bytes())


def _pip(folder: Path) -> list[str | Path]:
    return [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]


def _make_venv(folder: Path, log: Path) -> None:
    # Debian splits ensurepip off into a package of its own.
    probe = [sys.executable, "-c", "import ensurepip, venv"]
    if subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode:
        install_packages(
            ["python3-venv"], otherwise="Or use a Python that has the venv module."
        )
    # Not the virtual environment that somebody may have called us from.
    run_logged([_base_python(), "-m", "venv", folder], log=log)


def _base_python() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
