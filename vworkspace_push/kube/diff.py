"""Differences between two JSON objects, for a person to read.

Paths are those of `kube.ownership`, such as `.spec.chart.version`; items of lists are
compared by their place. What admission takes for a secret is masked wherever a value
becomes text, since these lines are shown and stored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Any, Final, NamedTuple

from .ownership import MAX_FIELD
from .resources import is_secret


class _Absent(Enum):
    ABSENT = "absent"  # a member stays itself in copies, unlike an object()


ABSENT: Final = _Absent.ABSENT
MASK = "•••"
KNOWN_PATHS = 2_048  # whose text is remembered
MAX_KNOWN = 200  # characters of such a path


class Change(NamedTuple):
    """One leaf that differs; a side that does not have it holds `ABSENT`."""

    path: str
    old: Any
    new: Any


# === COMPARISON === #


def changes(
    old: Mapping[str, Any] | None, new: Mapping[str, Any] | None
) -> list[Change]:
    """Return the leaves in which two objects differ, in the order of the documents.

    Leaves are scalars, and maps and lists that are empty; an added or removed subtree
    is listed leaf by leaf. None is the same as an empty object.
    """
    found: list[Change] = []
    stack: list[tuple[str, Any, Any]] = [("", old or ABSENT, new or ABSENT)]
    while stack:
        path, before, after = stack.pop()
        if before is ABSENT:
            found += [Change(at, ABSENT, leaf) for at, leaf in _leaves(path, after)]
        elif after is ABSENT:
            found += [Change(at, leaf, ABSENT) for at, leaf in _leaves(path, before)]
        elif _is_equal_branch(before, after):
            continue
        elif not (_is_branch(before) or _is_branch(after)):
            if not _is_same(before, after):
                found.append(Change(path, before, after))
        elif _are_alike(before, after):
            stack.extend(reversed(list(_children(path, before, after))))
        else:
            stack += [(path, ABSENT, after), (path, before, ABSENT)]
    return found


def _is_branch(value: Any) -> bool:
    return isinstance(value, (dict, list, tuple)) and len(value) > 0


def _is_equal_branch(before: Any, after: Any) -> bool:
    """Tell quickly of most branches without a difference that they have none."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return False
    try:
        # To Python, true equals 1: only the texts tell them apart.
        return before == after and json.dumps(before) == json.dumps(after)
    except (RecursionError, ValueError, TypeError):
        return False


def _leaves(path: str, value: Any) -> list[tuple[str, Any]]:
    """Return the leaves of what is on one side alone, in the document's order."""
    if value is ABSENT:
        return []
    if not _is_branch(value):
        return [(path, value)]
    found: list[tuple[str, Any]] = []
    branches = [(path, value, _members(value))]  # each as far as it was looked through
    while branches:
        above, branch, members = branches[-1]
        is_map = isinstance(branch, dict)
        for key, item in members:
            at = f"{above}.{key}" if is_map else f"{above}[{key}]"
            if isinstance(item, (dict, list, tuple)) and item:
                branches.append((at, item, _members(item)))
                break
            found.append((at, item))
        else:
            branches.pop()
    return found


def _members(branch: Any) -> Iterator[tuple[Any, Any]]:
    return iter(branch.items() if isinstance(branch, dict) else enumerate(branch))


def _are_alike(before: Any, after: Any) -> bool:
    """Tell whether two branches are of one kind."""
    if not (_is_branch(before) and _is_branch(after)):
        return False
    return isinstance(before, dict) is isinstance(after, dict)


def _children(path: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict):
        for key in dict.fromkeys((*before, *after)):
            yield f"{path}.{key}", before.get(key, ABSENT), after.get(key, ABSENT)
    else:
        for i in range(max(len(before), len(after))):
            yield (
                f"{path}[{i}]",
                before[i] if i < len(before) else ABSENT,
                after[i] if i < len(after) else ABSENT,
            )


def _is_same(before: Any, after: Any) -> bool:
    """Compare two leaves as JSON does: 1 is 1.0, but true is not 1."""
    if isinstance(before, bool) is not isinstance(after, bool):
        return False
    return bool(before is after or before == after)


# === TEXT === #


MAX_LINES = 500  # of changes
MAX_VALUE = 200  # characters of one value


def revised(before: str | None, manifest: Mapping[str, Any]) -> str:
    """Return what a manifest changes, as `render` has it.

    :param before: the manifest before it as JSON; None: it is the first
    """
    if before:
        return render(changes(json.loads(before), manifest))
    leaves = _leaves("", manifest or ABSENT)
    added = [_added(path, value, MAX_VALUE) for path, value in leaves[:MAX_LINES]]
    return _joined(added, of=len(leaves))


def render(
    changes: Sequence[Change], *, max_lines: int = MAX_LINES, max_value: int = MAX_VALUE
) -> str:
    """Return one line for each change: `+` added, `-` removed, `~` changed.

    :param max_lines: of changes; one more says how many were left out
    :param max_value: characters of one value
    """
    lines = [_line(change, max_value) for change in changes[:max_lines]]
    return _joined(lines, of=len(changes))


def _joined(lines: list[str], *, of: int) -> str:
    if more := of - len(lines):
        lines.append(f"… and {more:,} more")
    return "\n".join(lines)


def text(value: Any, path: str, *, limit: int = 2_000) -> str:
    """Return a value as one line of JSON, masked and cut; nothing for None.

    :param path: of the value, which says whether it is a secret
    :param limit: characters
    """
    return "" if value is None else _shown(value, path, limit)


def _shown(value: Any, path: str, limit: int) -> str:
    if isinstance(value, str):  # most values are
        text = MASK if is_secret(_key(path), value) else value
        return _cut(encode_basestring(text[: limit + 1]), limit)
    if isinstance(value, bool):
        return "true" if value else "false"
    return _cut(_json(mask(value, path)), limit)


def _added(path: str, value: Any, limit: int) -> str:
    return f"+ {_shown_path(path)}: {_shown(value, path, limit)}"


def _line(change: Change, limit: int) -> str:
    path, old, new = change
    if old is ABSENT:
        return _added(path, new, limit)
    shown_path = _shown_path(path)
    if new is ABSENT:
        return f"- {shown_path}: {_shown(old, path, limit)}"
    return f"~ {shown_path}: {_shown(old, path, limit)} → {_shown(new, path, limit)}"


# The objects of a bulk have the same paths.


def _shown_path(path: str) -> str:
    return _known_path(path) if len(path) <= MAX_KNOWN else _cut(path, MAX_FIELD)


def _key(path: str) -> str:
    return _known_key(path) if len(path) <= MAX_KNOWN else _name(path)


@lru_cache(maxsize=KNOWN_PATHS)
def _known_path(path: str) -> str:
    return _cut(path, MAX_FIELD)


@lru_cache(maxsize=KNOWN_PATHS)
def _known_key(path: str) -> str:
    return _name(path)


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)


def _json(value: Any) -> str:
    try:
        return _ENCODER.encode(value)
    except RecursionError:
        return "…"


def _cut(text: str, limit: int) -> str:
    """Return text of one line: no line of its own, no hidden characters (bidi, NUL)."""
    if len(text) <= limit and text.isprintable():
        return text
    shown = text[: limit + 1]
    if not shown.isprintable():
        shown = "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode()
            for char in shown
        )
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


# === SECRETS AND NOISE === #

_SELECTORS = re.compile(r'(\[([^\]"]|"([^"\\]|\\.)*")*\])+\Z')


def _name(path: str) -> str:
    """Return under which name a path's value stands, less its selectors."""
    path = path[-MAX_FIELD:]
    if path.endswith("]"):
        path = _SELECTORS.sub("", path)
    return path.rpartition(".")[2]


def mask(value: Any, path: str) -> Any:
    """Return `value` with `MASK` for each text that admission takes for a secret.

    :param path: of the value; its last name is the text's key. Items of a list stand
        under the name of the list, which is stricter than admission.
    """
    if value is None or isinstance(value, (bool, int, float)):
        return value
    key = _name(path)
    if isinstance(value, str):
        return MASK if is_secret(key, value) else value
    root = [value]
    stack: list[tuple[Any, Any, str]] = [(root, 0, key)]
    while stack:
        holder, place, key = stack.pop()
        item = holder[place]
        if isinstance(item, str):
            if is_secret(key, item):
                holder[place] = MASK
        elif isinstance(item, Mapping):
            holder[place] = copy = dict(item)
            stack.extend((copy, name, str(name)) for name in copy)
        elif isinstance(item, (list, tuple)):
            holder[place] = items = list(item)
            stack.extend((items, i, key) for i in range(len(items)))
    return root[0]


_SERVER_SET = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
)


def clean(obj: Mapping[str, Any]) -> dict[str, Any]:
    """Return a live object without status and what the server sets: what to compare."""
    kept = {key: value for key, value in obj.items() if key != "status"}
    metadata = obj.get("metadata")
    if isinstance(metadata, Mapping):
        kept["metadata"] = {k: v for k, v in metadata.items() if k not in _SERVER_SET}
    return kept
