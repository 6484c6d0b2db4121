"""Untrusted YAML is read alike by both parsers, and as PyYAML's SafeLoader does."""

import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kube import strict_yaml
from kube.strict_yaml import YamlError, load_yaml

# The locked PyYAML has libyaml, and so have its wheels.
_PARSERS = [yaml.BaseLoader, yaml.CBaseLoader]


def _read(text, parser):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict_yaml, "_PARSER", parser)
        try:
            return load_yaml(text)
        except YamlError:
            return YamlError


class _Reference(yaml.SafeLoader):
    """SafeLoader with our numbers, with text for keys and dates."""

    def construct_mapping(self, node, deep=False):
        return {
            self.construct_text(key): self.construct_object(value, deep=True)
            for key, value in node.value
        }

    def construct_text(self, node):
        text = self.construct_scalar(node)
        return text.encode("utf-16", "surrogatepass").decode("utf-16")


_Reference.yaml_implicit_resolvers = {
    first: [
        (tag, regexp)
        for tag, regexp in resolvers
        if tag.rpartition(":")[2] in ("null", "bool", "merge", "value")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Reference.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$"),
    list("-+0123456789"),
)
_Reference.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?$"
        r"|[-+]?([0-9]+[eE][-+]?[0-9]+|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)
_Reference.add_constructor("tag:yaml.org,2002:str", _Reference.construct_text)
_Reference.add_constructor("tag:yaml.org,2002:map", _Reference.construct_mapping)

_pieces = st.lists(
    st.one_of(
        st.sampled_from("ab1é😀~:-[]{},'\"|>#?\\\xa0\n\r\x85\u2028 "),
        st.sampled_from(["null", "yes", "Off", "2020-01-01", "1.e5", "017", "08"]),
        st.sampled_from(
            [": ", "- ", "\n  ", "\n    ", "\n\n", "\r\n", " # c", "k: v\n"]
        ),
        st.sampled_from(["---", "...", ">+", "|\n  x\n", "\\ud83d\\ude00", "\\ud83d"]),
    ),
    max_size=16,
).map("".join)


@settings(max_examples=500)
@given(_pieces)
def test_both_parsers_read_the_same(text):
    ours = _read(text, yaml.BaseLoader)
    theirs = _read(text, yaml.CBaseLoader)

    if YamlError not in (ours, theirs):
        assert theirs == ours


@settings(max_examples=500)
@given(
    _pieces | st.from_regex(r"[-+]?[0-9._xbefinaINA]{0,7}", fullmatch=True),
    st.sampled_from(_PARSERS),
)
def test_what_is_accepted_is_read_as_the_safe_loader_reads_it(text, parser):
    read = _read(text, parser)
    try:
        expected = yaml.load(text, Loader=_Reference)  # noqa: S506 a SafeLoader
    except (yaml.YAMLError, ValueError):
        return

    if read is not YamlError:
        assert repr(read) == repr(expected)


@pytest.mark.parametrize("parser", _PARSERS)
@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a: [1", "(line 1, column 6)"),
        ("a: 1\nb: [1\n", "(line 3, column 1)"),
        ("a: [\r\n1,\r2,\x853,\u2028[", "(line 5, column 2)"),
        ("\ufeffa: .nan", "(line 1, column 4)"),
        ("é: '😀'\né: 1", "(line 2, column 1)"),
        ('"\\ud83d\\ude00": [1, .nan]', "(line 1, column 21)"),
        ("a: 1\nb: \x07", "(line 2, column 4)"),
    ],
)
def test_both_parsers_tell_the_same_place(text, where, parser, monkeypatch):
    monkeypatch.setattr(strict_yaml, "_PARSER", parser)

    with pytest.raises(YamlError) as refusal:
        load_yaml(text)

    assert str(refusal.value).endswith(where)


@pytest.mark.parametrize("parser", _PARSERS)
@pytest.mark.parametrize(
    ("text", "data"),
    [
        (r'["\ud83d\uDE00", "\U0000d83d\ude00"]', ["😀", "😀"]),
        (r'{"\ud83d\ude00": "\ud83d\ude00\\ud83d"}', {"😀": r"😀\ud83d"}),
        (r"[\ud83d\ude00, '\ud83d', '\\ud83d\ude00']", None),
        ('"\\ud83d\\ude00\n\n  x"', "😀\nx"),
        ('a: |\n  "\\ud83d"\nb: "\\ud83d\\ude00" # "\\ud83d"', None),
    ],
)
def test_only_in_double_quotes_are_two_halves_joined(text, data, parser, monkeypatch):
    monkeypatch.setattr(strict_yaml, "_PARSER", parser)

    expected = data or yaml.load(text, Loader=_Reference)  # noqa: S506 a SafeLoader

    assert load_yaml(text) == expected


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "[a: "])
@pytest.mark.parametrize("end", ["", '"\\ud83d\\ude00"'])
def test_a_million_levels_are_refused_at_the_first_too_many(opening, end):
    with pytest.raises(YamlError, match="nested deeper than 64"):
        load_yaml(opening * 1_000_000 + end)


def test_what_an_error_names_is_cut_and_printable():
    key = "? " + '"' + "\\n" + "x" * 5000 + '"\n'

    with pytest.raises(YamlError) as refusal:
        load_yaml(key * 2)

    assert len(str(refusal.value)) < 200
    assert str(refusal.value).isprintable()
