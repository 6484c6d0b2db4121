"""Chart values: YAML as a person writes it → the JSON object that is sent.

What YAML is accepted is the strict reader's choice: no aliases, tags or duplicate keys.
"""

from __future__ import annotations

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


def _kind(data: Any) -> str:
    return {list: "list", str: "text", bool: "yes or no"}.get(type(data), "number")
