"""Values as people write them, and as somebody with bad intentions would."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kube.values import ValuesError, parse_values

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
        ("? [a]\n: 1", "a key must be plain text"),
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
