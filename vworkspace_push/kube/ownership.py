"""Field ownership in server-side apply: conflicts, and who manages which field.

A conflict arrives as text in a Status (grammar: apimachinery, managedfields,
`printManager`), ownership as `metadata.managedFields[].fieldsV1`. Both name fields by
the paths of structured-merge-diff, such as `.spec.env[name="X"].value`; this module
reads them, looks values up by them, and tells who owns a field, which of ours were
taken, and how a field is given up, overwritten or adopted.

What a cluster sends is nested at most 100 deep (`content.parse_json`), so that code
here may recurse over it.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from .resources import FIELD_MANAGER

MAX_FIELD = 1_024  # characters of one path
MAX_CONFLICTS = 256  # fields of one conflict
MAX_MANAGER = 128  # characters of a manager's name (Kubernetes API)
MAX_MANAGERS = 256  # managedFields entries that are looked at
MAX_OWNED = 5_000  # fields of one report
MAX_LIST_KEYS = 8  # sets of keys by which the items of one list are told apart

# Whose fields `adoption` takes: managers of Pull mode, and what was there before it.
ADOPTABLE = (
    "vworkspace-agent",
    "vworkspace-operator",
    "kubectl-client-side-apply",
    "before-first-apply",
)


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
        field=_storable(cause.get("field"), MAX_FIELD),
        manager=_storable(_unquote(match["manager"]), MAX_MANAGER) if match else "",
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


def owned_fields(obj: Mapping[str, Any]) -> str:
    """Return what we own of `obj` as canonical JSON text, for storing and comparing.

    :return: the fieldsV1 of our entry; "" when there is none
    """
    entry = our_entry(obj)
    fields = entry.get("fieldsV1") if entry else None
    if not isinstance(fields, Mapping):
        return ""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


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


# === OWNERS AND DRIFT === #


@dataclass(frozen=True)
class Manager:
    """Who owns fields of an object."""

    name: str
    operation: str  # "Apply" or "Update"
    subresource: str | None
    since: datetime | None  # aware, UTC

    @property
    def is_us(self) -> bool:
        identity = (self.name, self.operation, self.subresource)
        return identity == (FIELD_MANAGER, "Apply", None)


@dataclass(frozen=True)
class OwnedField:
    """One field of a live object and everybody who owns it."""

    field: str
    managers: tuple[Manager, ...]
    ours: bool
    value: Any


@dataclass(frozen=True)
class DriftedField:
    """One field that we applied and do not own any more."""

    field: str
    live_value: Any  # None if absent
    present: bool
    managers: tuple[Manager, ...]  # who has it now; empty: it was removed


def owners(obj: Mapping[str, Any]) -> tuple[OwnedField, ...]:
    """Return the fields of a live object that somebody owns, sorted by path.

    Maps and lists are left out unless they are empty or owned as a whole. Fields of a
    status are there, told by the `subresource` of their managers.

    :return: at most MAX_OWNED
    """
    fields: list[OwnedField] = []
    for spot in _walk(obj, _entries(obj)):
        is_container = isinstance(spot.value, (Mapping, list)) and bool(spot.value)
        if (
            spot.value is _MISSING
            or not spot.owners
            or (is_container and spot.has_parts)
        ):
            continue
        managers = _managers(spot.owners)
        ours = any(manager.is_us for manager in managers)
        fields.append(OwnedField(spot.path, managers, ours, spot.value))
        if len(fields) >= MAX_OWNED:
            break
    return tuple(sorted(fields, key=lambda owned: owned.field))


def drift(applied: str, obj: Mapping[str, Any]) -> tuple[DriftedField, ...]:
    """Return the fields that we applied and lost since, sorted by path.

    Whoever changes a value takes it from our entry, so no value needs a comparison.

    :param applied: text of `owned_fields` after our last apply; a malformed one counts
        as no field
    :return: at most MAX_OWNED
    """
    if applied == owned_fields(obj):
        return ()
    try:
        tree = json.loads(applied)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(tree, Mapping):
        return ()
    lost: list[DriftedField] = []
    for spot in _walk(obj, [*_entries(obj), (None, tree)]):
        managers = _managers((*spot.above, *spot.holders))
        if None not in spot.ends or any(manager.is_us for manager in managers):
            continue
        present = spot.value is not _MISSING
        value = spot.value if present else None
        lost.append(DriftedField(spot.path, value, present, managers))
        if len(lost) >= MAX_OWNED:
            break
    return tuple(sorted(lost, key=lambda drifted: drifted.field))


def other_owners(obj: Mapping[str, Any], field: str) -> tuple[Manager, ...]:
    """Return the managers other than us that keep `field` when we give it up.

    They own it, something in it, or an atomic value that it is part of. Without any,
    giving the field up deletes it.
    """
    found: list[Manager | None] = []
    for spot in _walk(obj, _entries(obj), toward=field):
        if spot.path == field:
            found += spot.holders
        elif spot.whole and any(_routes(spot.value, field[len(spot.path) :])):
            found += spot.whole
    return tuple(manager for manager in _managers(found) if not manager.is_us)


_MISSING: Any = object()
# fieldsV1 trees and whose they are; None: what we once applied
_Trees = Sequence[tuple[Manager | None, Mapping[str, Any]]]
_Holders = tuple[Manager | None, ...]


@dataclass(frozen=True)
class _Spot:
    """A place in an object that somebody owns, or owns something in."""

    path: str
    value: Any  # _MISSING: it is not in the object
    holders: _Holders  # own it or something in it
    owners: _Holders  # own it itself
    ends: _Holders  # own it and nothing in it
    whole: _Holders  # own it together with all that it is made of
    above: _Holders  # own a whole that it is part of
    has_parts: bool  # somebody owns something in it


def _entries(obj: Mapping[str, Any]) -> _Trees:
    return [
        (
            Manager(
                name=_storable(entry.get("manager"), MAX_MANAGER),
                operation=_storable(entry.get("operation"), MAX_MANAGER),
                subresource=_storable(entry.get("subresource"), MAX_MANAGER) or None,
                since=_time(entry.get("time")),
            ),
            entry["fieldsV1"],
        )
        for entry in islice(_managed_fields(obj), MAX_MANAGERS)
        if isinstance(entry.get("fieldsV1"), Mapping)
    ]


def _managers(holders: Iterable[Manager | None]) -> tuple[Manager, ...]:
    return tuple(dict.fromkeys(holder for holder in holders if holder is not None))


def _walk(obj: Any, trees: _Trees, *, toward: str = "") -> Iterator[_Spot]:
    """Walk through `obj` and fieldsV1 trees side by side, containers first.

    :param toward: only what is on the way to this path; empty: everywhere
    """
    stack: list[tuple[str, Any, _Trees, _Holders]] = [("", obj, trees, ())]
    while stack:
        path, value, here, above = stack.pop()
        spot = _spot(path, value, here, above)
        if path:
            yield spot
        parts: dict[str, list[tuple[Manager | None, Mapping[str, Any]]]] = {}
        for holder, tree in here:
            for key, part in tree.items():
                if key != ".":
                    subtree = part if isinstance(part, Mapping) else {}
                    parts.setdefault(key, []).append((holder, subtree))
        find = _finder(value)
        for key, subtrees in parts.items():
            inner = _storable(path + _element(key[:MAX_FIELD]), MAX_FIELD)
            if not toward or toward.startswith(inner):
                stack.append((inner, find(key), subtrees, (*above, *spot.whole)))


def _spot(path: str, value: Any, here: _Trees, above: _Holders) -> _Spot:
    ends = tuple(holder for holder, tree in here if not tree.keys() - {"."})
    has_parts = any(holder and tree.keys() - {"."} for holder, tree in here)
    is_whole = not has_parts and value is not _MISSING and value not in ({}, [])
    return _Spot(
        path=path,
        value=value,
        holders=tuple(holder for holder, _tree in here),
        owners=tuple(holder for holder, tree in here if not tree or "." in tree),
        ends=ends,
        whole=tuple(filter(None, ends)) if is_whole else (),
        above=above,
        has_parts=has_parts,
    )


def _finder(value: Any) -> Callable[[str], Any]:
    """Return what finds a part of `value` by its fieldsV1 key; _MISSING if absent.

    The items of a list are indexed once: there may be many, and many keys.
    """
    indexes: dict[tuple[str, ...], dict[str, Any]] = {}

    def find(key: str) -> Any:
        tag, _, text = key.partition(":")
        if isinstance(value, Mapping):
            return value.get(text, _MISSING) if tag == "f" else _MISSING
        if not isinstance(value, list) or tag not in ("k", "v", "i"):
            return _MISSING
        try:
            wanted = json.loads(text)
        except (ValueError, RecursionError):
            return _MISSING
        if tag == "i":
            is_index = type(wanted) is int and 0 <= wanted < len(value)
            return value[wanted] if is_index else _MISSING
        names = tuple(sorted(wanted)) if tag == "k" and isinstance(wanted, dict) else ()
        if names not in indexes:
            if len(indexes) >= MAX_LIST_KEYS:
                return _MISSING
            indexes[names] = _index(value, names)
        return indexes[names].get(_canonical(wanted), _MISSING)

    return find


def _index(items: list[Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return the items by the text of their values at `names`, or by their own."""
    if not names:
        return {_canonical(item): item for item in items}
    return {
        _canonical({name: item[name] for name in names}): item
        for item in items
        if isinstance(item, Mapping) and all(name in item for name in names)
    }


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


# === DECISIONS === #

_NEVER_LEFT_OUT = {
    ("apiVersion",),
    ("kind",),
    ("metadata",),
    ("metadata", "name"),
    ("metadata", "namespace"),
    ("spec",),
}


def without(manifest: Mapping[str, Any], fields: Iterable[str]) -> dict[str, Any]:
    """Return a copy of `manifest` that does not apply `fields`.

    Maps and lists that become empty go as well, since an empty one is owned itself.
    The object's identity, `metadata` and `spec` stay; unknown fields are ignored.
    """
    routes = {route for field in fields if (route := _route(manifest, field))}

    def copied(value: Any, route: Route) -> Any:
        if isinstance(value, Mapping):
            pairs = [
                (name, copied(part, (*route, name))) for name, part in value.items()
            ]
            rest: Any = {name: part for name, part in pairs if part is not _MISSING}
        elif isinstance(value, list):
            parts = [copied(part, (*route, index)) for index, part in enumerate(value)]
            rest = [part for part in parts if part is not _MISSING]
        else:
            rest = value
        is_emptied = rest in ({}, []) and rest != value
        stays = not route or route in _NEVER_LEFT_OUT
        return _MISSING if (route in routes or is_emptied) and not stays else rest

    result: dict[str, Any] = copied(manifest, ())
    return result


def with_value(manifest: Mapping[str, Any], field: str, value: Any) -> dict[str, Any]:
    """Return a copy of `manifest` with `value` at `field`.

    Maps on the way are created, items of lists are not.

    :raise ValueError: the path cannot be followed
    """
    changed = copy.deepcopy(dict(manifest))
    steps = route(changed, field)
    target: Any = changed
    for step in steps[:-1]:
        target = target.setdefault(step, {}) if isinstance(step, str) else target[step]
    target[steps[-1]] = copy.deepcopy(value)
    return changed


def route(manifest: Mapping[str, Any], field: str) -> Route:
    """Return the keys and indexes that lead to `field`, whether it is there or not.

    :raise ValueError: there is no place for it
    """
    found = _route(manifest, field) or _new_route(manifest, field)
    if not found:
        raise ValueError(f"The manifest has no place for {field[:MAX_FIELD]}.")
    return found


def _route(obj: Any, field: str) -> Route | None:
    # A path of that length may have been cut, and lead elsewhere.
    return next(_routes(obj, field), None) if len(field) < MAX_FIELD else None


_NAMES = re.compile(r"(\.[^.\[\]]+)+")
_LABEL = re.compile(r"\.metadata\.(labels|annotations)\.(.+)", re.DOTALL)


def _new_route(obj: Any, field: str) -> Route | None:
    """Return where an absent field belongs: into the deepest map on its way."""
    if len(field) >= MAX_FIELD:
        return None
    for cut in reversed([match.start() for match in re.finditer(r"\.", field)]):
        route = next(_routes(obj, field[:cut]), None)
        into = None if route is None else _value_on(obj, route)
        if route is None or not isinstance(into, Mapping):
            continue
        if label := _LABEL.fullmatch(field):  # its name may hold dots
            names = ["metadata", label[1], label[2]][len(route) :]
        elif _NAMES.fullmatch(field, cut):
            names = field[cut + 1 :].split(".")
        else:
            return None
        return (*route, *names) if names and names[0] not in into else None
    return None


# === EMPTIED MAPS === #


def may_empty(manifest: Mapping[str, Any], applied: str | None) -> bool:
    """Tell whether `manifest` may empty a map in which we own something.

    A server that removes the last entry of a map stores null instead of an empty map,
    or refuses it (structured-merge-diff, `removingWalker.doMap`): see `emptied`.

    :param applied: text of `owned_fields` after our last apply; None or "": unknown,
        so any empty map counts
    """
    routes = list(_empty_maps(manifest))
    if not routes or not applied:
        return bool(routes)
    try:
        tree = json.loads(applied)
    except (ValueError, RecursionError):
        return True
    return any(_names_owned(tree, route) for route in routes)


def emptied(
    manifest: Mapping[str, Any], live: Mapping[str, Any]
) -> tuple[tuple[str, ...], ...]:
    """Return the maps that are empty in `manifest`, and would be emptied by it.

    Those in which we own whatever there is, and nobody else owns anything.

    :return: the keys that lead to each
    """
    trees = _entries(live)
    ours = [tree for holder, tree in trees if holder and holder.is_us]
    others = [tree for holder, tree in trees if not (holder and holder.is_us)]
    return tuple(
        route
        for route in _empty_maps(manifest)
        if (names := _names_at(live, route))
        and names <= {name for tree in ours for name in _names_owned(tree, route)}
        and not any(_names_owned(tree, route) for tree in others)
    )


def emptying(
    live: Mapping[str, Any], routes: Iterable[tuple[str, ...]]
) -> tuple[dict[str, Any], ...]:
    """Return the JSON patch (RFC 6902) that empties maps of this version of `live`."""
    metadata = live["metadata"]
    return (
        _test(metadata, "uid"),
        _test(metadata, "resourceVersion"),
        *({"op": "replace", "path": _pointer(route), "value": {}} for route in routes),
    )


def transplant(
    source: Mapping[str, Any],
    target: Mapping[str, Any],
    routes: Iterable[tuple[str, ...]],
) -> dict[str, Any]:
    """Return a copy of `target` with the values that `source` has at `routes`."""
    result = copy.deepcopy(dict(target))
    for route in routes:
        place = result
        for name in route[:-1]:
            place = place.setdefault(name, {})
        place[route[-1]] = copy.deepcopy(_value_on(source, route))
    return result


def _empty_maps(value: Any, done: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield where maps are empty; the items of lists are replaced with their list."""
    for name, part in value.items():
        if isinstance(part, Mapping):
            if part:
                yield from _empty_maps(part, (*done, name))
            else:
                yield (*done, name)


def _names_at(value: Any, route: tuple[str, ...]) -> set[str]:
    """Return the names in the map at `route`; none where there is no map."""
    for name in route:
        value = value.get(name) if isinstance(value, Mapping) else None
    return set(value) if isinstance(value, Mapping) else set()


def _names_owned(tree: Any, route: tuple[str, ...]) -> set[str]:
    """Return the names in the map at `route` that a fieldsV1 tree owns (in) there."""
    keys = _names_at(tree, tuple(f"f:{name}" for name in route))
    return {key[2:] for key in keys if key.startswith("f:")}


def _pointer(route: tuple[str, ...]) -> str:
    """Return a JSON pointer (RFC 6901)."""
    escaped = (name.replace("~", "~0").replace("/", "~1") for name in route)
    return "".join(f"/{name}" for name in escaped)


# === ADOPTION === #


@dataclass(frozen=True)
class Adoption:
    """How fields become ours while their values stay."""

    patch: tuple[dict[str, Any], ...]  # JSON patch (RFC 6902)
    moved: tuple[tuple[str, str], ...]  # field, the manager that had it


def adoption(obj: Mapping[str, Any], manifest: Mapping[str, Any]) -> Adoption | None:
    """Return how to move what `manifest` contains from the ADOPTABLE managers to us.

    Only paths count: where values differ, our next apply changes them without a
    conflict. What the manifest does not contain stays with its manager, since our next
    apply would delete it.

    :param obj: the live object; the patch fails once another version of it is stored
    :param manifest: what we are going to apply
    :return: None when there is nothing to move
    """
    ours = our_entry(obj)
    kept: list[Mapping[str, Any]] = []
    gained: dict[str, Any] = {}
    moved: list[tuple[str, str]] = []
    since = ""
    for entry in _managed_fields(obj):
        if entry is ours:
            continue
        taken, rest = _split(_adoptable_fields(entry), manifest)
        if not taken:
            kept.append(entry)
            continue
        if rest:
            kept.append({**entry, "fieldsV1": rest})
        gained = _united(gained, taken)
        manager = _storable(entry["manager"], MAX_MANAGER)
        spots = _walk(manifest, [(None, taken)])
        moved += [(spot.path, manager) for spot in spots if None in spot.ends]
        since = max(since, str(entry.get("time") or ""))
    if not gained:
        return None
    entry = {
        "manager": FIELD_MANAGER,
        "operation": "Apply",
        "apiVersion": manifest["apiVersion"],
        "fieldsType": "FieldsV1",
        # The server keeps the time that it is given, and sets none by itself.
        **({"time": since} if since else {}),
        **(ours or {}),
    }
    fields = entry.get("fieldsV1")
    entry["fieldsV1"] = _united(fields if isinstance(fields, Mapping) else {}, gained)
    metadata = obj["metadata"]
    return Adoption(
        patch=(
            _test(metadata, "uid"),
            _test(metadata, "resourceVersion"),
            {
                "op": "replace",
                "path": "/metadata/managedFields",
                "value": [*kept, entry],
            },
        ),
        moved=tuple(sorted(moved)),
    )


def _adoptable_fields(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    fields = entry.get("fieldsV1")
    is_adoptable = entry.get("manager") in ADOPTABLE and not entry.get("subresource")
    return fields if is_adoptable and isinstance(fields, Mapping) else {}


def _split(
    tree: Mapping[str, Any], value: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parts of a fieldsV1 tree that are in `value`, and the others."""
    inside: dict[str, Any] = {}
    outside: dict[str, Any] = {}
    find = _finder(value)
    for key, subtree in tree.items():
        part = value if key == "." else find(key)
        if part is _MISSING:
            outside[key] = subtree
        elif key == "." or not subtree or not isinstance(subtree, Mapping):
            inside[key] = {}
        else:
            within, beyond = _split(subtree, part)
            inside |= {key: within} if within else {}
            outside |= {key: beyond} if beyond else {}
    return inside, outside


def _united(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return a fieldsV1 tree that owns what either owns."""
    result = dict(one)
    for key, subtree in other.items():
        if key not in result:
            result[key] = subtree
            continue
        mine = result[key] if isinstance(result[key], Mapping) else {}
        united = _united(mine, subtree)
        # A tree that ends owns its place; one that goes on needs the mark for it.
        ends = key != "." and not (mine and subtree)
        result[key] = {".": {}, **united} if ends and united else united
    return result


def _test(metadata: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {"op": "test", "path": f"/metadata/{name}", "value": metadata.get(name)}


# === PATHS === #

Route = tuple[str | int, ...]  # one reading of a path: names and indexes

_SELECTOR = re.compile(r'\[((?:[^\]"]|"(?:[^"\\]|\\.)*")*)\]')
_PAIR = re.compile(r'([^=,"]*)=("(?:[^"\\]|\\.)*"|[^,]*)(?:,|$)')


def value_at(obj: Any, field: str) -> Any:
    """Return the value at a path such as `.spec.env[name="X"].value`; None if absent.

    Paths do not escape dots in names (`.metadata.labels.app.example.io/x`), so where
    several readings exist the first that leads to a value counts.
    """
    route = next(_routes(obj, field[:MAX_FIELD]), None)
    return None if route is None else _value_on(obj, route)


def _value_on(obj: Any, route: Route) -> Any:
    for step in route:
        obj = obj[step]
    return obj


def _routes(obj: Any, path: str, done: Route = ()) -> Iterator[Route]:
    """Yield each reading of `path` that leads to a value in `obj`."""
    if not path:
        yield done
    elif path.startswith("."):
        if isinstance(obj, Mapping):
            for name, value in obj.items():
                rest = path[1 + len(name) :]
                if path.startswith(f".{name}") and rest[:1] in ("", ".", "["):
                    yield from _routes(value, rest, (*done, name))
    elif (match := _SELECTOR.match(path)) and isinstance(obj, list):
        for index in _select(obj, match[1]):
            yield from _routes(obj[index], path[match.end() :], (*done, index))


def _select(items: list[Any], selector: str) -> Iterator[int]:
    if selector.isdecimal():
        index = int(selector[:9])
        yield from (index,) if index < len(items) else ()
        return
    wanted = {pair[1]: _unquote_json(pair[2]) for pair in _PAIR.finditer(selector)}
    if set(wanted) == {""}:
        yield from (i for i, item in enumerate(items) if item == wanted[""])
        return
    yield from (
        index
        for index, item in enumerate(items)
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


def _storable(text: Any, limit: int) -> str:
    """Return text cut to `limit` and without what a database refuses."""
    cut = text[:limit].replace("\x00", "") if isinstance(text, str) else ""
    return cut.encode("utf-8", "replace").decode("utf-8")


def _unquote(text: str) -> str:
    """Undo Go's %q as far as names of managers use it."""
    return re.sub(r"\\(.)", r"\1", text)


def _time(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text)[:64])
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None
