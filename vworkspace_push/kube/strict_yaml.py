"""YAML text of untrusted origin → plain data, read safely and narrowly.

One document, no aliases (a few lines of them expand to gigabytes), no tags, no
duplicate keys (the first would be lost without a word), bounded depth. Dates stay the
text that was written, since JSON has none. Keys become strings, as Helm's own reader
makes them.

libyaml's parser reads it where PyYAML has it, PyYAML's own elsewhere: that is ten times
slower, refuses tabs between tokens, takes a byte order mark at the start of a line for
text, and has other words for what it cannot read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import partial
from typing import Any, NoReturn

import yaml

MAX_DEPTH = 64
MAX_SHOWN = 100  # characters of what is named in an error

_PARSER = yaml.CBaseLoader if yaml.__with_libyaml__ else yaml.BaseLoader

_COLLECTION_STARTS = {yaml.MappingStartEvent, yaml.SequenceStartEvent}
_COLLECTION_ENDS = {yaml.MappingEndEvent, yaml.SequenceEndEvent}

_WORDS = {word: None for word in ("", "~", "null", "Null", "NULL")} | {
    form: value
    for words, value in (("yes true on", True), ("no false off", False))
    for word in words.split()
    for form in (word, word.capitalize(), word.upper())
}
# YAML 1.1's numbers without those in base 60: 12:30 is text, as Helm reads it.
_INT = re.compile(r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)")
_FLOAT = re.compile(
    r"[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|\.[0-9][0-9_]*([eE][-+]?[0-9]+)?"
    r"|[0-9]+[eE][-+]?[0-9]+|\.(inf|Inf|INF))|\.(nan|NaN|NAN)"
)
_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_HIGH = "(?:u|U0000)([dD][89abAB][0-9a-fA-F]{2})"
_LOW = "(?:u|U0000)([dD][c-fC-F][0-9a-fA-F]{2})"
_SURROGATE = re.compile(rf"\\(?:{_HIGH}|{_LOW})")
_ESCAPE = re.compile(rf"\\(?:{_HIGH}\\{_LOW}|{_HIGH}|{_LOW}|.)", re.DOTALL)


class YamlError(ValueError):
    """Text that is not strict YAML; it says why, with line and column if it can."""


def load_yaml(text: str) -> Any:
    """Return what the one document in `text` describes, None if there is nothing.

    :raise YamlError: without a full stop, to be put into a sentence
    """
    text = text.lstrip("\ufeff")  # byte order marks
    try:
        yaml.reader.Reader(text)  # raises at control characters and surrogates
        return _build(_with_whole_characters(text))
    except yaml.MarkedYAMLError as exc:
        problem = (exc.problem or exc.context or "it cannot be read").strip()
        mark = exc.problem_mark or exc.context_mark
        where = _position(text, mark.index) if mark else ""
        raise YamlError(f"{problem}{where}") from None
    except yaml.reader.ReaderError as exc:
        problem = str(exc).splitlines()[0]
        raise YamlError(f"{problem}{_position(text, exc.position)}") from None
    except (yaml.YAMLError, ValueError, OverflowError):
        # PyYAML's own parser, at "\U00110000" and at %YAML 1.9 with 5000 digits
        raise YamlError("it cannot be read") from None


def _position(text: str, index: int) -> str:
    # Not the marks' own: libyaml puts the end of the text on a line of its own.
    lines = _BREAK.split(text[:index])
    return f" (line {len(lines)}, column {len(lines[-1]) + 1})"


def _refuse(event: Any, problem: str) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def _build(text: str) -> Any:
    """Return the document's data, built without recursion from what the parser sees."""
    document: list[Any] = []
    holder: Any = document
    outer: list[Any] = []
    key: str | None = None  # of a mapping, waiting for its value
    for event in _events(text):
        kind = type(event)  # most events are scalars: this is the quickest way to tell
        if kind is yaml.ScalarEvent:
            if key is not None:
                holder[key] = _scalar(event)
                key = None
            elif type(holder) is dict:
                key = _key(event, holder)
            else:
                holder.append(_scalar(event))
        elif kind in _COLLECTION_STARTS:
            if key is None and type(holder) is dict:
                _refuse(event, "a key must be plain text")
            outer.append(holder)
            value: Any = {} if kind is yaml.MappingStartEvent else []
            if key is None:
                holder.append(value)
            else:
                holder[key] = value
                key = None
            holder = value
        elif kind in _COLLECTION_ENDS:
            holder = outer.pop()
        elif kind is yaml.DocumentStartEvent and document:
            _refuse(event, "but found another document")
    return document[0] if document else None


def _events(text: str) -> Iterator[Any]:
    """Yield what the parser sees, up to the first node that is not accepted."""
    depth = 0
    anchors: set[str] = set()
    parser: Any = _PARSER(text)
    try:
        while event := parser.get_event():
            kind = type(event)
            if kind is yaml.ScalarEvent:
                if depth >= MAX_DEPTH or event.anchor or event.tag:
                    _check_node(event, depth, anchors)
            elif kind in _COLLECTION_ENDS:
                depth -= 1
            elif kind in _COLLECTION_STARTS:
                _check_node(event, depth, anchors)
                depth += 1
            elif kind is yaml.AliasEvent:
                _check_node(event, depth, anchors)
            yield event
    finally:
        parser.dispose()


def _check_node(event: Any, depth: int, anchors: set[str]) -> None:
    if isinstance(event, yaml.AliasEvent):
        _refuse(event, "aliases (*name) are not accepted")
    if event.tag is not None:
        _refuse(event, f"tags ({shown(event.tag)}) are not accepted")
    if depth >= MAX_DEPTH:
        _refuse(event, f"it is nested deeper than {MAX_DEPTH}")
    if event.anchor is not None:
        if event.anchor in anchors:
            _refuse(event, f"the anchor &{shown(event.anchor)} is there twice")
        anchors.add(event.anchor)


def _key(event: Any, mapping: dict[str, Any]) -> str:
    key = str(event.value)
    if key in mapping:
        _refuse(event, f'the key "{shown(key)}" is there twice')
    return key


def _scalar(event: Any) -> Any:
    text = event.value
    if not event.implicit[0]:  # quoted, or a block of text
        return text
    if text in _WORDS:
        return _WORDS[text]
    if text in ("<<", "="):  # YAML 1.1's merge and default value
        _refuse(event, f"{text} must be in quotes")
    if text[0] not in "-+.0123456789":
        return text
    try:
        return _number(text)
    except ValueError:
        _refuse(event, f"{shown(text)} is not a number in JSON")


def _number(text: str) -> int | float | str:
    """Return the number in `text`, or `text` if there is none.

    :raise ValueError: JSON cannot hold it
    """
    if _INT.fullmatch(text):
        digits = text.replace("_", "")
        unsigned = digits.lstrip("-+")
        octal = unsigned[0] == "0" and not unsigned[1:2].isalpha()
        number = int(digits, 8 if octal else 0)
        str(number)  # raises where json.dumps would, which int() of 0x does not
        return number
    if _FLOAT.fullmatch(text):
        value = float(text.replace("_", ""))  # raises at .inf and .nan
        if not math.isfinite(value):
            raise ValueError
        return value
    return text


def _with_whole_characters(text: str) -> str:
    """Return `text`, as long as it was, with what JSON escapes in two halves in one.

    YAML has no escapes of surrogates, and libyaml refuses them.
    """
    if not _SURROGATE.search(text):
        return text
    parts, done = [], 0
    # Only a parser knows what is in double quotes: it is shown others in their places.
    masked = _SURROGATE.sub(lambda match: match[0][:-4] + "0020", text)
    for event in _events(masked):
        if getattr(event, "style", None) == '"':
            start, end = event.start_mark.index, event.end_mark.index
            whole = _ESCAPE.sub(partial(_whole, event), text[start:end])
            parts += [text[done:start], whole.ljust(end - start)]
            done = end
    return "".join([*parts, text[done:]])


def _whole(event: Any, escape: re.Match[str]) -> str:
    high, low, *halves = escape.groups()
    if any(halves):
        _refuse(event, "half of a surrogate pair is no text")
    if not high:
        return escape[0]
    joined = bytes.fromhex(high + low).decode("utf-16-be")
    return f"\\U{ord(joined):08x}"


def shown(text: str) -> str:
    """Return untrusted text as an error may name it: printable, on one line, cut."""
    line = "".join(c if c.isprintable() else " " for c in text[:MAX_SHOWN])
    return line if len(text) <= MAX_SHOWN else f"{line}…"
