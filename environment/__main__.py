"""The commands behind the Makefile: `python3 -m environment COMMAND [ARGUMENTS]`.

Started with the system's Python, it makes the virtual environment when there is none
and starts again inside it. Until then it uses the standard library alone.
"""

import os
import sys

from .progress import Failure, say
from .python_env import ensure_python, inside_environment

COMMANDS = (
    *("run", "clean", "shell", "kubectl", "operator", "screenshots"),
    *("test", "unit", "faults", "bench", "lint", "format"),
)


def main(arguments: list[str]) -> int:
    """Run a command; return the exit code."""
    if not arguments or arguments[0] not in COMMANDS:
        say(f"Usage: python3 -m environment COMMAND\nCommands: {', '.join(COMMANDS)}")
        return 2
    try:
        if not inside_environment():
            _start_again_inside(arguments)
        return _dispatch(arguments[0], arguments[1:])
    except Failure as exc:
        print(f"\n{exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _start_again_inside(arguments: list[str]) -> None:
    python = ensure_python()
    sys.stdout.flush()
    os.execv(python, [str(python), "-m", "environment", *arguments])  # noqa: S606


def _dispatch(command: str, rest: list[str]) -> int:
    # Imported when asked for: `make lint` needs no PostgreSQL driver to load.
    if command in ("lint", "format"):
        from . import linters

        return linters.lint() if command == "lint" else linters.format_code()
    if command in ("test", "unit", "faults", "bench"):
        from . import session

        become = {
            "test": session.run_tests,
            "unit": session.run_unit_tests,
            "faults": session.run_faults,
            "bench": session.run_benchmarks,
        }
        become[command](rest)
    from . import run

    if command in ("kubectl", "operator"):
        return run.kubectl(rest) if command == "kubectl" else run.operator(rest)
    simple = {
        "run": run.run,
        "clean": run.clean,
        "shell": run.shell,
        "screenshots": run.screenshots,
    }
    return simple[command]()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
