"""How the operator is told to misbehave: the control file, and a command to edit it.

    python -m environment.operator.control --control FILE degrade demo/shop
    python -m environment.operator.control --control FILE heal demo/shop
    python -m environment.operator.control --control FILE admission refuse

The file is YAML or JSON and is replaced in one piece, so that the operator, which
reads it again whenever it changes, never sees half of it.
"""

import argparse
import json
import logging
import os
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from .resources import BEHAVIOUR_ANNOTATION, INSTANCE, Kind

BEHAVIOURS = ("slow", "degrade", "fail", "silent", "block")
ADMISSION_MODES = ("refuse", "hang", "error")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Control:
    """What a control file says; the defaults are an operator that behaves."""

    instances: Mapping[str, str] = field(default_factory=dict)
    operations: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None
    delay: float | None = None
    admission: str | None = None
    heartbeat: bool = True

    def __post_init__(self) -> None:
        for where in ("instances", "operations"):
            named = getattr(self, where)
            if not isinstance(named, Mapping):
                text = f"{where}: must map namespace/name to a behaviour"
                raise ValueError(text)  # noqa: TRY004 (it is a file's content)
            for name, behaviour in named.items():
                _check(f"{where}: {name}", behaviour, BEHAVIOURS)
        _check("default", self.default, (None, *BEHAVIOURS))
        _check("admission", self.admission, (None, *ADMISSION_MODES))
        _check("heartbeat", self.heartbeat, (True, False))
        is_number = isinstance(self.delay, int | float)
        if self.delay is not None and (not is_number or self.delay < 0):
            raise ValueError("delay: must be a number of seconds")

    def behaviour_of(self, kind: Kind, obj: Mapping[str, Any]) -> str | None:
        """Return the behaviour for an object: its annotation, its entry, the default.

        An annotation with an unknown value counts as none.
        """
        metadata = obj["metadata"]
        told = (metadata.get("annotations") or {}).get(BEHAVIOUR_ANNOTATION)
        if told in BEHAVIOURS:
            return told
        named = self.instances if kind is INSTANCE else self.operations
        return named.get(f"{metadata['namespace']}/{metadata['name']}", self.default)


def _check(where: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        listed = ", ".join("null" if item is None else str(item) for item in allowed)
        raise ValueError(f"{where}: {value!r} is not one of {listed}")


def read(path: Path) -> Control:
    """Return what a control file says; a missing or empty file says nothing.

    Raises ValueError with a sentence when it makes no sense.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        return Control()
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ValueError("the file is neither YAML nor JSON") from None
    if data is None:
        return Control()
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ValueError("the file must be a mapping")
    known = set(Control.__dataclass_fields__)
    if set(data) - known:
        unknown = ", ".join(sorted(set(data) - known))
        raise ValueError(f"unknown key {unknown}; known are {', '.join(sorted(known))}")
    return Control(**data)


def write(path: Path, control: Control) -> None:
    """Replace a control file in one piece."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(control), file, indent=2)
        file.write("\n")
    os.replace(name, path)


class ControlFile:
    """What a control file says now; without a path, an operator that behaves.

    Safe to share between threads.
    """

    def __init__(self, path: Path | None):
        self._path = path
        self._lock = threading.Lock()
        self._version: Any = None
        self._control = Control()

    @property
    def current(self) -> Control:
        """What it says, read again if the file changed: the same object while not.

        A file that makes no sense is logged, and what was said before stays.
        """
        if self._path is None:
            return self._control
        with self._lock:
            version = _version(self._path)
            if version != self._version:
                self._version = version
                self._read(self._path)
            return self._control

    def _read(self, path: Path) -> None:
        try:
            control = read(path)
        except (OSError, ValueError) as error:
            _logger.warning("control file ignored: %s", error)
            return
        if control != self._control:
            self._control = control
            _logger.info("control: %s", _differences(control) or "nothing special")


def _differences(control: Control) -> str:
    default = asdict(Control())
    return ", ".join(
        f"{name}={value}"
        for name, value in asdict(control).items()
        if value != default[name]
    )


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


# --- the command ----------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Edit a control file as the command line says, then print it."""
    options = _parser().parse_args(arguments)
    try:
        control = options.edit(read(options.control), options)
        write(options.control, control)
    except ValueError as error:
        raise SystemExit(f"{options.control}: {error}.") from None
    except OSError as error:
        raise SystemExit(f"{options.control}: {error.strerror}.") from None
    print(json.dumps(asdict(control), indent=2))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m environment.operator.control",
        description="Tell the simulated operator how to behave.",
    )
    parser.add_argument("--control", type=Path, required=True, metavar="FILE")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for behaviour in (*BEHAVIOURS, "heal"):
        command = commands.add_parser(behaviour, help=f"{behaviour} an object")
        command.add_argument("name", metavar="NAMESPACE/NAME", type=_object_name)
        command.add_argument("--operation", action="store_true")
        command.set_defaults(
            edit=_set_behaviour, behaviour=None if behaviour == "heal" else behaviour
        )
    command = commands.add_parser("default", help="how everything else behaves")
    command.add_argument("value", choices=[*BEHAVIOURS, "ok"])
    command.set_defaults(edit=_set_default)
    command = commands.add_parser("admission", help="how the webhook behaves")
    command.add_argument("value", choices=[*ADMISSION_MODES, "ok"])
    command.set_defaults(edit=_set_admission)
    command = commands.add_parser("heartbeat", help="whether the cluster has one")
    command.add_argument("value", choices=["on", "off"])
    command.set_defaults(edit=_set_heartbeat)
    command = commands.add_parser("delay", help="seconds until an outcome")
    command.add_argument("value", type=float)
    command.set_defaults(edit=_set_delay)
    return parser


def _object_name(text: str) -> str:
    if len(text.split("/")) != 2 or not all(text.split("/")):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAMESPACE/NAME")
    return text


def _set_behaviour(control: Control, options: argparse.Namespace) -> Control:
    where = "operations" if options.operation else "instances"
    named = {**getattr(control, where)}
    named.pop(options.name, None)
    if options.behaviour:
        named[options.name] = options.behaviour
    return replace(control, **{where: named})


def _set_default(control: Control, options: argparse.Namespace) -> Control:
    return replace(control, default=None if options.value == "ok" else options.value)


def _set_admission(control: Control, options: argparse.Namespace) -> Control:
    return replace(control, admission=None if options.value == "ok" else options.value)


def _set_heartbeat(control: Control, options: argparse.Namespace) -> Control:
    return replace(control, heartbeat=options.value == "on")


def _set_delay(control: Control, options: argparse.Namespace) -> Control:
    return replace(control, delay=options.value)


if __name__ == "__main__":
    main()
