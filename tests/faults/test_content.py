"""Content at the edge of what fits, from a client's request to the stored object."""

import pytest

from tests.faults.comparison import differences
from tests.faults.conftest import INSTANCE
from tests.live_objects import COLLECTION, get_object, list_objects

LARGE = 1_200_000  # bytes of values
REFUSAL = "Make the values smaller; the cluster stores at most 1.5 MiB per object."

EVERYWHERE = """\
# Комментарий: 注释, تعليق 🐘
"שלום עולם": "مرحبا \u202eabc\u202c"
🐘: [🦣, "e\u0301 and é", "\\L \\P \\u0085 \ufeff"]
"a.b[0]~1/c": "back\\\\slash \\"quoted\\" \\t tab"
long: "{}"
""".format("長" * 5_000)


def test_large_values_are_delivered(
    client, connection, control_plane, namespace, make_instances, records
):
    text = "a" * LARGE
    ids = make_instances(1, values_yaml=f"text: {text}\n")

    client.call(INSTANCE, "action_deploy", ids)

    assert records.states(ids) == ["applied"]
    assert inline_values(control_plane, namespace) == {"text": text}
    assert differences(connection, control_plane) == []


def test_what_the_cluster_finds_too_large_is_refused_in_a_sentence(
    client, connection, control_plane, make_instances, records
):
    # The server keeps a second copy of each key, to know who owns it.
    many = "".join(f"{number:0100}k: 1\n" for number in range(8_000))
    ids = make_instances(1, values_yaml=many)
    client.call(INSTANCE, "action_deploy", ids)
    ((told,),) = [
        (row["delivery_message"],)
        for row in client.call(INSTANCE, "read", ids, ["delivery_message"])
    ]
    assert records.states(ids) == ["denied"], told
    assert REFUSAL in told

    client.call(INSTANCE, "write", ids, {"values_yaml": "k: 1\n"})
    client.call(INSTANCE, "action_deploy", ids)

    assert differences(connection, control_plane) == []


def test_text_in_any_script_arrives_as_it_was_written(
    client, connection, control_plane, namespace, make_instances, records
):
    ids = make_instances(1, values_yaml=EVERYWHERE, catalog_id="ويكي-📚")

    client.call(INSTANCE, "action_deploy", ids)

    assert records.states(ids) == ["applied"]
    assert inline_values(control_plane, namespace) == {
        "שלום עולם": "مرحبا \u202eabc\u202c",
        "🐘": ["🦣", "e\u0301 and é", "\u2028 \u2029 \u0085 \ufeff"],
        "a.b[0]~1/c": 'back\\slash "quoted" \t tab',
        "long": "長" * 5_000,
    }
    live = get_object(control_plane, namespace, "wiki-0")
    assert live["spec"]["appRef"]["catalogId"] == "ويكي-📚"
    assert differences(connection, control_plane) == []
    # The form keeps what was typed, comments included.
    (row,) = client.call(INSTANCE, "read", ids, ["values_yaml"])
    assert row["values_yaml"] == EVERYWHERE


def test_a_nul_arrives_and_goes_again(
    client, connection, control_plane, namespace, make_instances, records
):
    ids = make_instances(1, values_yaml='a: "x\\0y"\n"k\\0": 1\n')
    client.call(INSTANCE, "action_deploy", ids)
    assert records.states(ids) == ["applied"]
    assert inline_values(control_plane, namespace) == {"a": "x\0y", "k\0": 1}
    control_plane.request(
        *("PATCH", f"{COLLECTION.format(namespace)}/wiki-0"),
        body={"spec": {"values": {"inline": {"a": "\0"}}}},
        query={"fieldManager": "rival"},
        content_type="application/merge-patch+json",
    )

    client.call(INSTANCE, "write", ids, {"values_yaml": "a: y\n"})
    client.call(INSTANCE, "action_deploy", ids)

    assert records.states(ids) == ["conflict"]
    control_plane.request(
        *("PATCH", f"{COLLECTION.format(namespace)}/wiki-0"),
        body={"spec": {"values": {"inline": {"a": "y"}}}},
        query={"fieldManager": "rival"},
        content_type="application/merge-patch+json",
    )
    client.call(INSTANCE, "action_deploy", ids)
    assert differences(connection, control_plane) == []


def test_half_a_character_is_refused(
    client, connection, control_plane, namespace, make_instances
):
    ids = make_instances(1, values_yaml='a: "x\\ud800y"\n')

    with pytest.raises(RuntimeError, match="half of a surrogate pair is no text"):
        client.call(INSTANCE, "action_deploy", ids)

    assert list_objects(control_plane, namespace) == []
    assert differences(connection, control_plane) == []


# === HELPERS === #


def inline_values(control_plane, namespace):
    return get_object(control_plane, namespace, "wiki-0")["spec"]["values"]["inline"]
