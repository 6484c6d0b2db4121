"""Chart values: YAML as a person writes it → the JSON object that is sent.

What YAML is accepted is the strict reader's choice: no aliases, tags or duplicate keys.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from .strict_yaml import YamlError, load_yaml


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
    """Return `text` with one value set, its comments and order kept.

    :param text: values as `parse_values` accepts them
    :param path: keys and indexes down to the value; missing maps are made
    :raise ValuesError: the path leads through something that is no map or list
    """
    from ruamel.yaml import YAML, YAMLError

    parse_values(text)  # what the strict reader refuses is not edited either
    editor = YAML()  # round trip
    editor.preserve_quotes = True
    editor.width = 10_000
    try:
        document = editor.load(text) or {}
        _set(document, path, value)
        written = io.StringIO()
        editor.dump(document, written)
    except (YAMLError, KeyError, IndexError, TypeError) as exc:
        shown = ".".join(map(str, path))
        raise ValuesError(f"{shown} cannot be set in the values.") from exc
    return written.getvalue()


def _set(document: Any, path: Sequence[str | int], value: Any) -> None:
    holder = document
    for step in path[:-1]:
        if isinstance(holder, dict) and step not in holder:
            holder[step] = {}
        holder = holder[step]
    if not isinstance(holder, (dict, list)):
        raise TypeError
    holder[path[-1]] = value


def _kind(data: Any) -> str:
    return {list: "list", str: "text", bool: "yes or no"}.get(type(data), "number")
