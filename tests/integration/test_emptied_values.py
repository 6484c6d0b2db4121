"""Values that are taken out again, down to nothing, on the real API server.

What an apply removes last from a map takes the map with it there: it would store null,
or refuse the change.
"""

import json

import pytest

from tests.deliveries import change
from tests.live_objects import get_object

RIVAL = "rival"
FULL = "image:\n  tag: v1\nresources:\n  limits: {cpu: 100m}\n"
EMPTIED = [
    ("", {}),
    ("{}", {}),
    ("image: {}\nresources:\n  limits: {cpu: 100m}\n", None),
    ("image: {tag: v1}\nresources:\n  limits: {}\n", None),
    ("image: {}\nresources: {}\n", None),
    ("resources: {}\nnew: {a: {}}\n", None),
]


@pytest.mark.parametrize(("text", "expected"), EMPTIED)
def test_emptied_values_arrive_exactly_and_are_ours(
    database, make_instance, deploy, control_plane, namespace, text, expected
):
    instance = make_instance(values_yaml=FULL)
    deploy(instance)

    change(database, instance, values_yaml=text)
    deploy(instance)

    assert database.read(instance, "delivery_state") == "applied"
    live = get_object(control_plane, namespace)
    wanted = intent(database, instance)["spec"]["values"]["inline"]
    assert live["spec"]["values"]["inline"] == wanted
    assert expected is None or wanted == expected
    assert {e["manager"] for e in live["metadata"]["managedFields"]} == {
        "vworkspace-odoo"
    }


def test_emptied_values_never_pass_through_null(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance(values_yaml=FULL)
    deploy(instance)
    since = get_object(control_plane, namespace)["metadata"]["resourceVersion"]

    change(database, instance, values_yaml="image: {}\nkept: 1\n")
    deploy(instance)

    seen = versions_since(control_plane, namespace, since)
    assert seen
    assert all(inline.get("image") is not None for inline in seen)


def test_values_that_can_be_filled_again_after_they_were_emptied(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance(values_yaml=FULL)
    for text in ("", FULL, "image: {}", FULL):
        change(database, instance, values_yaml=text)
        deploy(instance)

        assert database.read(instance, "delivery_state") == "applied"

    live = get_object(control_plane, namespace)
    assert live["spec"]["values"]["inline"] == {
        "image": {"tag": "v1"},
        "resources": {"limits": {"cpu": "100m"}},
    }


def test_what_others_own_in_an_emptied_map_stays(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance(values_yaml=FULL)
    deploy(instance)
    rival_sets(control_plane, namespace, {"image": {"pullPolicy": "Always"}})

    change(database, instance, values_yaml="image: {}\n")
    deploy(instance)

    assert database.read(instance, "delivery_state") == "applied"
    live = get_object(control_plane, namespace)
    assert live["spec"]["values"]["inline"] == {"image": {"pullPolicy": "Always"}}


def test_a_conflict_elsewhere_keeps_the_values_that_were_to_be_emptied(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance(values_yaml=FULL)
    deploy(instance)
    rival_takes_version(control_plane, namespace, "6.0.0")

    change(database, instance, values_yaml="", chart_version="1.5.0")
    deploy(instance)

    assert database.read(instance, "delivery_state") == "conflict"
    live = get_object(control_plane, namespace)
    assert live["spec"]["values"]["inline"]["image"] == {"tag": "v1"}


def test_a_decided_conflict_empties_the_values_as_well(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance(values_yaml=FULL)
    deploy(instance)
    rival_takes_version(control_plane, namespace, "6.0.0")
    change(database, instance, values_yaml="", chart_version="1.5.0")
    deploy(instance)

    with database.transaction() as env:
        record = env[instance._name].browse(instance.ids)
        decision = {"decision": "take_over", "reason": "ours", "manager": RIVAL}
        record._decide({".spec.chart.version": decision}, record._read_live())

    assert database.read(instance, "delivery_state") == "applied"
    live = get_object(control_plane, namespace)
    assert live["spec"]["values"]["inline"] == {}
    assert live["spec"]["chart"]["version"] == "1.5.0"


def test_a_preview_shows_emptied_values_as_they_will_be(
    database, make_instance, deploy, control_plane, namespace
):
    from odoo.addons.vworkspace_push.kube import apply

    instance = make_instance(values_yaml=FULL)
    deploy(instance)
    change(database, instance, values_yaml="resources: {}\n")

    with database.transaction() as env:
        record = env[instance._name].browse(instance.ids)
        preview = apply.preview(
            record.cluster_id._connection(),
            record._resource,
            record._signed(record._build_manifest()),
            uid=record.uid,
        )

    assert preview.refusal is None
    assert preview.result["spec"]["values"]["inline"] == {"resources": {}}
    live = get_object(control_plane, namespace)
    assert live["spec"]["values"]["inline"]["image"] == {"tag": "v1"}


# === HELPERS === #


def intent(database, instance):
    with database.transaction() as env:
        return json.loads(env[instance._name].browse(instance.ids).intent_manifest)


def versions_since(control_plane, namespace, version):
    """Return the inline values of each version of the object after one."""
    events = control_plane.kubectl(
        *("get", "--raw"),
        f"/apis/apps.vworkspace.io/v1alpha1/namespaces/{namespace}"
        f"/applicationinstances?watch=1&resourceVersion={version}&timeoutSeconds=1",
    )
    return [
        json.loads(line)["object"]["spec"]["values"]["inline"]
        for line in events.splitlines()
    ]


def rival_sets(control_plane, namespace, inline):
    rival_applies(control_plane, namespace, {"values": {"inline": inline}})


def rival_takes_version(control_plane, namespace, version):
    rival_applies(control_plane, namespace, {"chart": {"version": version}})


def rival_applies(control_plane, namespace, spec):
    control_plane.kubectl(
        *("patch", "applicationinstance", "wiki", "-n", namespace, "--type=merge"),
        *("--field-manager", RIVAL, "-p", json.dumps({"spec": spec})),
    )
