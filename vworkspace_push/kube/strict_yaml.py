"""YAML text of untrusted origin → plain data, read safely and narrowly.

One document, no aliases (a few lines of them expand to gigabytes), no tags, no
duplicate keys (the first would be lost without a word), bounded depth. Dates stay the
text that was written, since JSON has none. Keys become strings, as Helm's own reader
makes them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from typing import Any

import yaml

MAX_DEPTH = 64


class YamlError(ValueError):
    """Text that is not strict YAML; it says why, with line and column if it can."""


def load_yaml(text: str) -> Any:
    """Return what the one document in `text` describes, None if there is nothing.

    :raise YamlError: without a full stop, to be put into a sentence
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 a SafeLoader
    except yaml.MarkedYAMLError as exc:
        raise YamlError(_problem(exc)) from None
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        detail = str(exc).splitlines()[0] if str(exc) else "it is nested too deep"
        raise YamlError(detail) from None


def _problem(exc: yaml.MarkedYAMLError) -> str:
    problem = (exc.problem or exc.context or "it cannot be read").strip()
    mark = exc.problem_mark or exc.context_mark
    where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    return f"{problem}{where}"


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader without aliases, tags and timestamps, with a bound on depth."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call] # no stub
        mark: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None, None, "aliases (*name) are not accepted", mark
            )
        if getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(
                None, None, f"tags ({event.tag}) are not accepted", mark
            )
        if self._depth >= MAX_DEPTH:
            raise yaml.composer.ComposerError(
                None, None, f"it is nested deeper than {MAX_DEPTH}", mark
            )
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        mapping: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            if key in mapping:
                raise yaml.constructor.ConstructorError(
                    None, None, f'the key "{key}" is there twice', key_node.start_mark
                )
            mapping[key] = self.construct_object(value_node, deep=True)
        return mapping

    def _key(self, node: Any) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(
                None, None, "a key must be plain text", node.start_mark
            )
        return self.construct_yaml_str(node)

    def construct_yaml_str(self, node: Any) -> str:
        """Join what JSON escapes as surrogate pairs; YAML has no such escapes."""
        try:
            return str(node.value).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise yaml.constructor.ConstructorError(
                None, None, "half of a surrogate pair is no text", node.start_mark
            ) from None

    def construct_yaml_float(self, node: Any) -> float:
        value = super().construct_yaml_float(node)
        if not math.isfinite(value):
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value} is not a number in JSON", node.start_mark
            )
        return value


_StrictLoader.yaml_implicit_resolvers = {
    first: [
        (tag, regexp)
        for tag, regexp in resolvers
        if tag.rpartition(":")[2] not in ("timestamp", "int", "float")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# YAML 1.1's numbers without those in base 60: 12:30 is text, as Helm reads it.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$"),
    list("-+0123456789"),
)
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|\.[0-9][0-9_]*([eE][-+]?[0-9]+)?"
        r"|[0-9]+[eE][-+]?[0-9]+|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)
_StrictLoader.add_constructor(
    "tag:yaml.org,2002:float", _StrictLoader.construct_yaml_float
)
_StrictLoader.add_constructor("tag:yaml.org,2002:str", _StrictLoader.construct_yaml_str)
_StrictLoader.add_constructor("tag:yaml.org,2002:map", _StrictLoader.construct_mapping)
