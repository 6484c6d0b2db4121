"""Chart values: YAML as a person writes it → the JSON object that is sent.

What YAML is accepted is the strict reader's choice: no aliases, tags or duplicate keys.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.scalarstring import (
    LiteralScalarString,
    PlainScalarString,
    ScalarString,
    SingleQuotedScalarString,
)

from .strict_yaml import YamlError, load_yaml, shown

_COMMENT = re.compile(r"^[ \t]*#.*\n", re.MULTILINE)


class ValuesError(ValueError):
    """Values that cannot be sent; the text says where and why in one sentence."""


def parse_values(text: str, *, max_bytes: int = 1_000_000) -> dict[str, Any]:
    """Return the mapping that `text` describes; empty text is an empty mapping.

    :param max_bytes: of the text in UTF-8
    :raise ValuesError: with line and column where there is one
    """
    if len(text.encode("utf-8", "surrogatepass")) > max_bytes:
        raise ValuesError(f"The values are larger than {max_bytes:,} bytes.")
    try:
        data = load_yaml(text)
    except YamlError as exc:
        raise ValuesError(f"The values are not valid YAML: {exc}.") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ValuesError(
            "The values must be a mapping of names to values, such as "
            f'"replicas: 2", not a {_kind(data)}.'
        )
    return data


def edit_values(text: str, path: Sequence[str | int], value: Any) -> str:
    """Return `text` with one value set, its comments, quotes and order kept.

    It takes more than 1 s for each 100 kB of keys.

    :param text: values as `parse_values` accepts them
    :param path: keys and indexes down to the value; missing maps are made, also in
        place of null
    :param value: as JSON holds it
    :raise ValuesError: `text` is not accepted, or the path leads through something that
        is no map or list
    """
    values = parse_values(text)  # what the strict reader refuses is not edited either
    refusal = ValuesError(
        f"{shown('.'.join(map(str, path)))} cannot be set in the values."
    )
    head = ""
    written = io.StringIO()
    editor = _editor(text)
    try:
        if values:
            document = editor.load(text)
        else:
            document = CommentedMap()
            head = "".join(_COMMENT.findall(f"{text}\n"))
        _set(document, values, path, value)
        editor.dump(document, written)
    except (YAMLError, LookupError, TypeError, ValueError, RecursionError):
        raise refusal from None
    edited = head + written.getvalue()
    # The editor's rules are not the reader's: a value must not turn into another.
    if json.dumps(parse_values(edited)) != json.dumps(values):
        raise refusal
    return edited


class _Resolver(VersionedResolver):
    """Takes plain text for what it is, so that numbers and keys stay as written."""

    @property
    def versioned_resolver(self) -> Any:
        # A key without a value is no empty text, which would be put into quotes.
        return {"": [("tag:yaml.org,2002:null", re.compile("$"))]}


def _editor(text: str) -> YAML:
    """Return an editor that indents as `text` does."""
    editor = YAML()  # round trip
    editor.Resolver = _Resolver
    editor.preserve_quotes = True
    editor.width = 2**31  # it breaks no lines
    nested = re.search(r"^\S[^\n#]*:\n( +)[^\s#-]", text, re.MULTILINE)
    listed = re.search(r"^( *)[^\s#-][^\n#]*:\n( *)- ", text, re.MULTILINE)
    if nested:
        editor.map_indent = len(nested[1])
    if listed and len(listed[2]) > len(listed[1]):
        editor.sequence_dash_offset = len(listed[2]) - len(listed[1])
        editor.sequence_indent = editor.sequence_dash_offset + 2
    return editor


def _set(document: Any, values: Any, path: Sequence[str | int], value: Any) -> None:
    """Set a value in the editor's `document` and in `values`, which are the same.

    :raise LookupError, TypeError: the path leads nowhere
    """
    *parents, last = path
    for step in parents:
        if isinstance(values, dict) and values.get(step) is None:
            _put(document, values, step, {})
        document, values = document[step], values[step]
    _put(document, values, last, value)


def _put(document: Any, values: Any, step: str | int, value: Any) -> None:
    holds: Any = dict if isinstance(step, str) else list
    if not isinstance(values, holds):
        raise TypeError
    before = document[step] if isinstance(step, int) or step in values else None
    document[step] = _node(value, before)
    values[step] = value


def _node(value: Any, before: Any = None) -> Any:
    """Return what the editor writes `value` as, quoted as the one `before` it."""
    if isinstance(value, dict):
        return CommentedMap({key: _node(item) for key, item in value.items()})
    if isinstance(value, list):
        return CommentedSeq(map(_node, value))
    if not isinstance(value, str):
        return PlainScalarString(json.dumps(value))
    if isinstance(before, ScalarString) and not isinstance(before, PlainScalarString):
        return type(before)(value)
    if "\n" in value:
        return LiteralScalarString(value)
    return SingleQuotedScalarString(value) if _needs_quotes(value) else value


def _needs_quotes(text: str) -> bool:
    """Tell whether text could be read as something else; digits by other readers."""
    if text[:1] in tuple("+-.0123456789"):
        return True
    try:
        return bool(load_yaml(text) != text)
    except YamlError:
        return True


def _kind(data: Any) -> str:
    return {list: "list", str: "text", bool: "yes or no"}.get(type(data), "number")
