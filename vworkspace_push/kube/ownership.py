"""Field ownership in server-side apply: conflicts, and who manages which field.

A conflict arrives as text in a Status (grammar: apimachinery, managedfields,
`printManager`), ownership as `metadata.managedFields[].fieldsV1`. Both name fields by
the paths of structured-merge-diff, such as `.spec.env[name="X"].value`; this module
reads them and looks values up by them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from .resources import FIELD_MANAGER

MAX_FIELD = 1_024  # characters of one path
MAX_CONFLICTS = 256  # fields of one conflict


@dataclass(frozen=True)
class FieldConflict:
    """One field that we apply and another manager owns with another value."""

    field: str  # as the server wrote it, such as ".spec.chart.version"
    manager: str
    operation: str  # "Apply" or "Update"
    api_version: str | None
    subresource: str | None
    since: datetime | None  # aware, UTC
    our_value: Any = None
    live_value: Any = None


# === CONFLICTS === #

_CAUSE = re.compile(
    r'conflict with "(?P<manager>(?:[^"\\]|\\.)*)"'
    r'(?: with subresource "(?P<subresource>[^"]*)")?'
    r"(?: using (?P<version>\S+))?"
    r"(?: at (?P<at>\S+))?"
)


def parse_conflicts(status: Mapping[str, Any]) -> tuple[FieldConflict, ...]:
    """Return the field conflicts that a Status reports; empty when it reports none."""
    details = status.get("details")
    causes = details.get("causes") if isinstance(details, Mapping) else None
    if not isinstance(causes, list):
        return ()
    return tuple(
        _conflict(cause)
        for cause in causes[:MAX_CONFLICTS]
        if isinstance(cause, Mapping) and cause.get("reason") == "FieldManagerConflict"
    )


def _conflict(cause: Mapping[str, Any]) -> FieldConflict:
    match = _CAUSE.fullmatch(str(cause.get("message") or ""))
    version = match["version"] if match else None
    return FieldConflict(
        field=str(cause.get("field") or "")[:MAX_FIELD],
        manager=_unquote(match["manager"]) if match else "",
        # Only managers that updated are printed with the version that they used.
        operation="Update" if version else "Apply",
        api_version=version,
        subresource=match["subresource"] if match else None,
        since=_time(match["at"]) if match else None,
    )


def complete_conflicts(
    conflicts: tuple[FieldConflict, ...],
    *,
    manifest: Mapping[str, Any],
    live: Mapping[str, Any],
) -> tuple[FieldConflict, ...]:
    """Add to each conflict our value, the live value and since when the rival has it.

    :param manifest: what we tried to apply
    :param live: the object as the server has it
    """
    return tuple(
        replace(
            conflict,
            our_value=value_at(manifest, conflict.field),
            live_value=value_at(live, conflict.field),
            since=conflict.since or _since(live, conflict),
        )
        for conflict in conflicts
    )


def _since(live: Mapping[str, Any], conflict: FieldConflict) -> datetime | None:
    for entry in _managed_fields(live):
        if (
            entry.get("manager") == conflict.manager
            and entry.get("operation") == conflict.operation
            and (entry.get("subresource") or None) == conflict.subresource
        ):
            return _time(entry.get("time"))
    return None


# === MANAGED FIELDS === #


def our_entry(obj: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return our managedFields entry: our manager, operation Apply, no subresource."""
    for entry in _managed_fields(obj):
        if (
            entry.get("manager") == FIELD_MANAGER
            and entry.get("operation") == "Apply"
            and not entry.get("subresource")
        ):
            return entry
    return None


def _managed_fields(obj: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    metadata = obj.get("metadata")
    entries = metadata.get("managedFields") if isinstance(metadata, Mapping) else None
    if isinstance(entries, list):
        yield from (entry for entry in entries if isinstance(entry, Mapping))


def field_set(fields_v1: Mapping[str, Any]) -> frozenset[str]:
    """Return the paths that a fieldsV1 tree owns, in the notation of conflicts.

    A path is owned where the tree ends, or where it holds `.` (the container itself).
    """
    paths: set[str] = set()
    stack: list[tuple[str, Any]] = [("", fields_v1)]
    while stack:
        path, tree = stack.pop()
        if not isinstance(tree, Mapping) or not tree or "." in tree:
            paths.add(path)
        if isinstance(tree, Mapping):
            stack.extend(
                (path + _element(key), subtree)
                for key, subtree in tree.items()
                if key != "."
            )
    return frozenset(paths - {""})


def _element(key: str) -> str:
    """Return one step of a path: `f:` field, `k:` list key, `v:` value, `i:` index."""
    tag, _, text = key.partition(":")
    if tag == "f":
        return f".{text}"
    if tag == "i":
        return f"[{text}]"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return f"[{text}]"
    if tag == "k" and isinstance(value, dict):
        pairs = (f"{name}={_quoted(part)}" for name, part in sorted(value.items()))
        return f"[{','.join(pairs)}]"
    return f"[={_quoted(value)}]"


# === PATHS === #

_SELECTOR = re.compile(r'\[((?:[^\]"]|"(?:[^"\\]|\\.)*")*)\]')
_PAIR = re.compile(r'([^=,"]*)=("(?:[^"\\]|\\.)*"|[^,]*)(?:,|$)')


def value_at(obj: Any, field: str) -> Any:
    """Return the value at a path such as `.spec.env[name="X"].value`; None if absent.

    Paths do not escape dots in names (`.metadata.labels.app.example.io/x`), so where
    several readings exist the first that leads to a value counts.
    """
    return next(_values_at(obj, field[:MAX_FIELD]), None)


def _values_at(obj: Any, path: str) -> Iterator[Any]:
    if not path:
        yield obj
    elif path.startswith("."):
        if isinstance(obj, Mapping):
            for name, value in obj.items():
                rest = path[1 + len(name) :]
                if path.startswith(f".{name}") and rest[:1] in ("", ".", "["):
                    yield from _values_at(value, rest)
    elif (match := _SELECTOR.match(path)) and isinstance(obj, list):
        for item in _select(obj, match[1]):
            yield from _values_at(item, path[match.end() :])


def _select(items: list[Any], selector: str) -> Iterator[Any]:
    if selector.isdecimal():
        yield from items[int(selector[:9]) :][:1]
        return
    wanted = {pair[1]: _unquote_json(pair[2]) for pair in _PAIR.finditer(selector)}
    if set(wanted) == {""}:
        yield from (item for item in items if item == wanted[""])
        return
    yield from (
        item
        for item in items
        if isinstance(item, Mapping)
        and wanted
        and all(name in item and item[name] == text for name, text in wanted.items())
    )


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _unquote_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.strip('"')


def _unquote(text: str) -> str:
    """Undo Go's %q as far as names of managers use it."""
    return re.sub(r"\\(.)", r"\1", text)


def _time(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text)[:64])
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None
