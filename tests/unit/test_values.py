"""Values as people write them, and as somebody with bad intentions would."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kube import strict_yaml
from kube.values import ValuesError, edit_values, parse_values


@pytest.fixture(
    scope="module",
    autouse=True,
    params=["BaseLoader", "CBaseLoader"],
)
def parser(request):
    """Read with PyYAML's own parser, and with libyaml's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict_yaml, "_PARSER", getattr(yaml, request.param))
        yield


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(
        st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=9
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text("abcxyz.-_", min_size=1, max_size=5), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text("abcxyz", min_size=1, max_size=5), _json, max_size=4))
def test_json_is_read_as_it_stands(values):
    assert parse_values(json.dumps(values)) == values


@given(st.text(max_size=60))
def test_any_text_gives_a_mapping_or_a_sentence(text):
    try:
        values = parse_values(text)
    except ValuesError as exc:
        sentence = str(exc)
    else:
        sentence = "."
        json.dumps(values, allow_nan=False)

    assert sentence.endswith(".")
    assert "\n" not in sentence


@pytest.mark.parametrize("text", ["", "  \n", "# nothing yet\n", "null"])
def test_nothing_is_an_empty_mapping(text):
    assert parse_values(text) == {}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2020-01-01", "2020-01-01"),
        ("12:30:45", "12:30:45"),
        ("1.2.3", "1.2.3"),
        ("0x1f", 31),
        ("1e3", 1000.0),
        ("no", False),
        ("~", None),
        ("'8080'", "8080"),
    ],
)
def test_scalars_are_read_as_helm_reads_them(text, value):
    assert parse_values(f"key: {text}") == {"key": value}


def test_keys_become_text():
    assert parse_values("8080: web\ntrue: yes") == {"8080": "web", "true": True}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: [1", "line 1"),
        ("a: 1\na: 2", '"a" is there twice (line 2, column 1)'),
        ("- a\n- b", "not a list"),
        ("just text", "not a text"),
        ("a: &x 1\nb: *x", "aliases (*name) are not accepted (line 2"),
        ("a: !!python/object/apply:os.system [id]", "tags"),
        ("a: .nan", "not a number in JSON"),
        ("a: -.inf", "not a number in JSON"),
        ("--- {}\n--- {}", "another document"),
        ("[" * 200, "nested deeper"),
        ("a: \x00", "not allowed"),
        ('a: "\\ud800"', "half of a surrogate pair"),
        ('a: "\\ude00\\ud83d"', "half of a surrogate pair"),
        ("? [a]\n: 1", "a key must be plain text"),
        ("a: &x 1\nb: &x 2", "&x is there twice"),
        ("a: =", "= must be in quotes"),
        ("a: 1" + "0" * 5000, "not a number in JSON"),
        ('a: "\\U00110000"', "not valid YAML"),
        ('a: "\\Uffffffff"', "not valid YAML"),
        (f"%YAML 1.{'1' * 5000}\n--- {{}}", "not valid YAML"),
        ("a: 1e999", "1e999 is not a number in JSON"),
        ("é: \x00", "special characters are not allowed (line 1, column 4)"),
        ("a: \ud800", "special characters are not allowed (line 1, column 4)"),
        ("a: 0x" + "f" * 5000, "not a number in JSON"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_a_reason(text, complaint):
    with pytest.raises(ValuesError) as refusal:
        parse_values(text)
    assert complaint in str(refusal.value)


def test_aliases_cannot_blow_up():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    with pytest.raises(ValuesError, match="aliases"):
        parse_values("\n".join(lines))


def test_size_is_bounded():
    with pytest.raises(ValuesError, match="larger than 100 bytes"):
        parse_values("a: " + "x" * 100, max_bytes=100)


def test_the_safe_loader_of_others_is_left_as_it_was():
    assert yaml.safe_load("a: 2020-01-01")["a"].year == 2020


def test_one_value_is_set_and_all_else_stays_as_written():
    text = """\
# What we run
web:
    image: "nginx"  # not ours
    ports:
      - 8080
      - 0x1F90
    debug: yes
    empty:
notes: |
    two
    lines
"""

    edited = edit_values(text, ["web", "image"], "caddy")

    assert edited == text.replace("nginx", "caddy")


@pytest.mark.parametrize(
    ("text", "path", "value", "edited"),
    [
        ("", ["a", "b"], 1, "a:\n  b: 1\n"),
        ("# soon\n", ["a"], 1, "# soon\na: 1\n"),
        ("{}", ["a"], None, "a: null\n"),
        ("a:\n", ["a", "b"], True, "a:\n  b: true\n"),
        ("a: [1, 2]", ["a", 1], 3, "a: [1, 3]\n"),
        ("a:\n- b: 1\n", ["a", 0, "c"], 2, "a:\n- b: 1\n  c: 2\n"),
        ("8080: web", ["8080"], "db", "8080: db\n"),
        ("true: 1", ["true"], 2, "true: 2\n"),
        ("a: '1'", ["a"], 2, "a: 2\n"),
        ('a: "1"', ["a"], "2", 'a: "2"\n'),
        ("a: x", ["a"], [1, {"b": []}], "a:\n- 1\n- b: []\n"),
        ("größe: ü # 😀", ["größe"], "ö", "größe: ö # 😀\n"),
        ("a: x", ["a"], "b\nc\n", "a: |\n  b\n  c\n"),
        ('a: "\\ud83d\\ude00"\nb: 1', ["b"], 2, 'a: "\\uD83D\\uDE00"\nb: 2\n'),
    ],
)
def test_a_value_is_set_where_the_path_leads(text, path, value, edited):
    assert edit_values(text, path, value) == edited


@pytest.mark.parametrize("text", ["yes", "off", "null", "", "017", "1_0", "<<", "a: b"])
def test_text_stays_text_when_it_is_set(text):
    edited = edit_values("a: plain", ["a"], text)

    assert edited == f"a: '{text}'\n"


@given(
    st.dictionaries(st.text("abcxyz", min_size=1, max_size=5), _json, max_size=4), _json
)
def test_what_is_set_is_read_again(values, value):
    text = json.dumps(values)
    try:
        edited = edit_values(text, ["abc"], value)
    except ValuesError:
        return  # rather none than another

    assert parse_values(edited) == {**values, "abc": value}


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a: 1", ["a", "b"]),
        ("a: text", ["a", "b", "c"]),
        ("a: text", ["a", 0]),
        ("a: [1]", ["a", 1]),
        ("a: [1]", ["a", "b"]),
        ("a: {b: 1}", ["a", 0]),
        ("a: 1", []),
    ],
)
def test_a_path_through_something_else_is_refused(text, path):
    with pytest.raises(ValuesError, match="cannot be set in the values"):
        edit_values(text, path, 1)


def test_what_would_be_read_as_something_else_is_not_set():
    with pytest.raises(ValuesError, match="a cannot be set in the values"):
        edit_values("a: 1", ["a"], float("nan"))


def test_what_cannot_be_read_is_not_edited():
    with pytest.raises(ValuesError, match="there twice"):
        edit_values("a: 1\na: 2", ["b"], 1)
