"""Apply, take-over, adoption and drift against the real API server and its rivals."""

import json
from copy import deepcopy

import pytest

from kube import apply as verbs
from kube import errors, ownership
from kube.connection import Connection, Settings
from kube.resources import APPLICATION_INSTANCE as INSTANCE
from tests.conftest import CLUSTER_ID
from tests.live_objects import (
    create_object,
    delete_object,
    get_object,
    patch_status,
    ready_status,
)

RIVAL = "rival"
VERSION = ".spec.chart.version"
REPLICAS = ".spec.values.inline.replicas"
USER = ".spec.values.inline.auth.user"


class Meddled(Connection):
    """A connection before whose requests somebody else is faster."""

    def meddle(self, times, *, when, act):
        self.times, self.when, self.act = times, when, act

    def request(self, method, path, **options):
        if self.times and self.when(method, options.get("query") or {}):
            self.times -= 1
            self.act()
        return super().request(method, path, **options)

    times = 0


@pytest.fixture
def connection(control_plane):
    settings = Settings(server=control_plane.server, ca_pem=control_plane.ca_pem)
    token = control_plane.service_account_token()
    made = Meddled(settings, token=lambda: token)
    yield made
    made.close()


@pytest.fixture
def live(control_plane, namespace):
    """Return the object as it is now."""
    return lambda: get_object(control_plane, namespace)


@pytest.fixture
def rival(control_plane, namespace):
    """Return what writes into the object as somebody else (null removes)."""

    def write(changes, *, manager=RIVAL):
        control_plane.request(
            "PATCH",
            INSTANCE.path("wiki", namespace),
            body=changes,
            query={"fieldManager": manager},
            content_type="application/merge-patch+json",
        )

    return write


def manifest(namespace, *, version="1.4.2", inline=None):
    return {
        "apiVersion": INSTANCE.api_version,
        "kind": INSTANCE.kind,
        "metadata": {
            "name": "wiki",
            "namespace": namespace,
            "labels": {"app.vworkspace.io/cluster-id": CLUSTER_ID},
        },
        "spec": {
            "appRef": {"catalogId": "wiki"},
            "chart": {
                "sourceType": "oci",
                "url": "oci://registry.example.com/charts",
                "name": "wiki",
                "version": version,
            },
            "release": {"name": "wiki", "namespace": namespace},
            "values": {
                "source": "inline",
                "inline": inline
                or {"replicas": 2, "auth": {"user": "ada"}, "hosts": ["a", "b"]},
            },
        },
    }


def inline(**values):
    return {"spec": {"values": {"inline": values}}}


def chart_version(version):
    return {"spec": {"chart": {"version": version}}}


def by_field(found):
    return {entry.field: entry for entry in found}


def names(managers):
    return [manager.name for manager in managers]


def managed(obj):
    """Return (manager, operation) of each managedFields entry."""
    return [(e["manager"], e["operation"]) for e in obj["metadata"]["managedFields"]]


# === THE FIRST DELIVERY === #


def test_first_delivery_creates(connection, namespace, live):
    applied = verbs.apply(connection, INSTANCE, manifest(namespace), uid=None)
    assert applied.created
    assert applied.uid == live()["metadata"]["uid"]
    assert applied.audit_id


@pytest.mark.parametrize("version", ["1.4.2", "2.0.0"])
@pytest.mark.parametrize("force", [False, True])
def test_first_delivery_never_joins_an_object_of_somebody_else(
    control_plane, connection, namespace, live, version, force
):
    before = create_object(control_plane, namespace, "wiki")
    wanted = manifest(namespace, version=version)
    with pytest.raises(errors.AlreadyExists) as caught:
        verbs.apply(connection, INSTANCE, wanted, uid=None, force=force)
    assert caught.value.live == live() == before
    assert caught.value.audit_id


def test_first_delivery_never_joins_what_it_made_itself(connection, namespace, live):
    wanted = manifest(namespace)
    verbs.apply(connection, INSTANCE, wanted, uid=None)
    with pytest.raises(errors.AlreadyExists) as caught:
        verbs.apply(connection, INSTANCE, wanted, uid=None)
    assert caught.value.live == live()


def test_apply_to_a_version_that_passed_stores_nothing(
    connection, namespace, live, rival
):
    first = verbs.apply(connection, INSTANCE, manifest(namespace), uid=None)
    rival(inline(extra=1))
    before = live()
    newer = manifest(namespace, version="2.0.0")
    guard = {"uid": first.uid, "resource_version": first.resource_version}
    with pytest.raises(errors.StaleVersion):
        verbs.apply(connection, INSTANCE, newer, force=True, **guard)
    assert live() == before


def test_version_of_a_replaced_object_is_told_as_its_replacement(
    control_plane, connection, namespace
):
    first = verbs.apply(connection, INSTANCE, manifest(namespace), uid=None)
    delete_object(control_plane, namespace)
    create_object(control_plane, namespace, "wiki")
    guard = {"uid": first.uid, "resource_version": first.resource_version}
    with pytest.raises(errors.IdentityMismatch):
        verbs.apply(connection, INSTANCE, manifest(namespace), **guard)


# === TAKE-OVER === #


@pytest.fixture
def contested(connection, namespace, rival):
    """An object of ours whose chart version a rival changed; return it."""
    applied = verbs.apply(connection, INSTANCE, manifest(namespace), uid=None)
    rival(chart_version("9.9.9"))
    return applied


def test_take_over_overwrites_what_was_decided(
    connection, namespace, contested, live, rival
):
    rival(inline(extra=1))
    wanted = manifest(namespace)
    applied = verbs.take_over(
        connection, INSTANCE, wanted, uid=contested.uid, fields=[VERSION]
    )
    assert applied.object == live()
    assert ownership.value_at(live(), VERSION) == "1.4.2"
    assert ownership.value_at(live(), ".spec.values.inline.extra") == 1
    assert names(by_field(ownership.owners(live()))[VERSION].managers) == [
        "vworkspace-odoo"
    ]


def test_take_over_of_less_than_all_conflicts_overwrites_nothing(
    connection, namespace, contested, live, rival
):
    rival(inline(replicas=7))
    before = live()
    with pytest.raises(errors.Conflict) as caught:
        verbs.take_over(
            connection,
            INSTANCE,
            manifest(namespace),
            uid=contested.uid,
            fields=[VERSION],
        )
    assert set(by_field(caught.value.conflicts)) == {VERSION, REPLICAS}
    assert by_field(caught.value.conflicts)[REPLICAS].live_value == 7
    assert live() == before


def test_take_over_does_not_overwrite_what_a_rival_takes_meanwhile(
    connection, namespace, contested, live, rival
):
    connection.meddle(
        1,
        when=lambda method, query: "force" in query,
        act=lambda: rival(inline(replicas=7)),
    )
    with pytest.raises(errors.Conflict) as caught:
        verbs.take_over(
            connection,
            INSTANCE,
            manifest(namespace),
            uid=contested.uid,
            fields=[VERSION],
        )
    assert set(by_field(caught.value.conflicts)) == {VERSION, REPLICAS}
    assert ownership.value_at(live(), VERSION) == "9.9.9"
    assert ownership.value_at(live(), REPLICAS) == 7


def test_take_over_starts_over_when_its_object_moved(
    control_plane, connection, namespace, contested, live
):
    connection.meddle(
        2,
        when=lambda method, query: "force" in query,
        act=lambda: patch_status(
            control_plane,
            namespace,
            ready_status(message=f"{connection.times} to go"),
        ),
    )
    verbs.take_over(
        connection,
        INSTANCE,
        manifest(namespace),
        uid=contested.uid,
        fields=[VERSION],
    )
    assert connection.times == 0
    assert ownership.value_at(live(), VERSION) == "1.4.2"


def test_take_over_gives_up_on_an_object_that_never_rests(
    connection, namespace, contested, live, rival
):
    connection.meddle(
        verbs.TRIES,
        when=lambda method, query: "force" in query,
        act=lambda: rival(inline(extra=connection.times)),
    )
    with pytest.raises(errors.StaleVersion):
        verbs.take_over(
            connection,
            INSTANCE,
            manifest(namespace),
            uid=contested.uid,
            fields=[VERSION],
        )
    assert ownership.value_at(live(), VERSION) == "9.9.9"


def test_take_over_without_a_conflict_applies(connection, namespace, live):
    first = verbs.apply(connection, INSTANCE, manifest(namespace), uid=None)
    newer = manifest(namespace, version="2.0.0")
    verbs.take_over(connection, INSTANCE, newer, uid=first.uid, fields=[VERSION])
    assert ownership.value_at(live(), VERSION) == "2.0.0"


def test_take_over_of_a_deleted_object_creates_nothing(
    control_plane, connection, namespace, contested
):
    delete_object(control_plane, namespace)
    with pytest.raises(errors.IdentityMismatch):
        verbs.take_over(
            connection, INSTANCE, manifest(namespace), uid=contested.uid, fields=[]
        )


# === PREVIEW === #


def test_list_that_is_larger_than_an_answer_may_be_comes_in_smaller_pages(
    connection, control_plane, namespace
):
    names = [f"large-{number}" for number in range(5)]
    for name in names:
        large = manifest(namespace, inline={"text": "x" * 300_000})
        large["metadata"]["name"] = large["spec"]["release"]["name"] = name
        verbs.apply(connection, INSTANCE, large, uid=None)
    token = control_plane.service_account_token()
    settings = Settings(
        server=control_plane.server,
        ca_pem=control_plane.ca_pem,
        max_response_bytes=1_000_000,
    )
    narrow = Connection(settings, token=lambda: token)

    items, version = verbs.list_all(narrow, INSTANCE, namespace=namespace)

    assert [item["metadata"]["name"] for item in items] == names
    assert version
    narrow.close()


def test_preview_of_a_first_delivery_creates_nothing(
    control_plane, connection, namespace
):
    seen = verbs.preview(connection, INSTANCE, manifest(namespace), uid=None)
    assert seen.live is None
    assert seen.created
    assert seen.refusal is None
    assert ownership.value_at(seen.result, ".spec.mode") == "managed"  # a default
    with pytest.raises(errors.NotFound):
        verbs.get(connection, INSTANCE, "wiki", namespace)


def test_preview_of_a_change_stores_nothing(connection, namespace, live):
    first = verbs.apply(connection, INSTANCE, manifest(namespace), uid=None)
    newer = manifest(namespace, version="2.0.0")
    seen = verbs.preview(connection, INSTANCE, newer, uid=first.uid)
    assert seen.live == live() == first.object
    assert ownership.value_at(seen.result, VERSION) == "2.0.0"
    assert (seen.created, seen.conflicts, seen.refusal) == (False, (), None)


def test_preview_of_a_conflict_shows_both_values_and_what_taking_over_gives(
    connection, namespace, contested, live
):
    before = live()
    seen = verbs.preview(connection, INSTANCE, manifest(namespace), uid=contested.uid)
    (conflict,) = seen.conflicts
    assert (conflict.field, conflict.our_value, conflict.live_value) == (
        VERSION,
        "1.4.2",
        "9.9.9",
    )
    assert ownership.value_at(seen.result, VERSION) == "1.4.2"
    assert seen.refusal is None
    assert live() == before


def test_preview_tells_of_an_object_that_nobody_deployed_from_here(
    control_plane, connection, namespace, live
):
    before = create_object(control_plane, namespace, "wiki")
    wanted = manifest(namespace, version="2.0.0")
    seen = verbs.preview(connection, INSTANCE, wanted, uid=None)
    assert isinstance(seen.refusal, errors.AlreadyExists)
    assert seen.refusal.live == seen.live == before
    assert VERSION in by_field(seen.conflicts)
    assert ownership.value_at(seen.result, VERSION) == "2.0.0"
    assert live() == before


def test_preview_tells_of_an_object_that_is_gone_or_another(
    control_plane, connection, namespace
):
    first = verbs.apply(connection, INSTANCE, manifest(namespace), uid=None)
    delete_object(control_plane, namespace)
    seen = verbs.preview(connection, INSTANCE, manifest(namespace), uid=first.uid)
    assert isinstance(seen.refusal, errors.IdentityMismatch)
    assert seen.live is None
    other = create_object(control_plane, namespace, "wiki")
    seen = verbs.preview(connection, INSTANCE, manifest(namespace), uid=first.uid)
    assert isinstance(seen.refusal, errors.IdentityMismatch)
    assert seen.live == other


def test_preview_holds_the_servers_refusal(connection, namespace):
    broken = manifest(namespace)
    broken["spec"]["chart"]["sourceType"] = "git"
    seen = verbs.preview(connection, INSTANCE, broken, uid=None)
    assert isinstance(seen.refusal, errors.Denied)
    assert [cause.field for cause in seen.refusal.causes] == ["spec.chart.sourceType"]
    assert seen.result is None


def test_preview_holds_what_the_account_may_not_do(connection):
    seen = verbs.preview(connection, INSTANCE, manifest("kube-system"), uid=None)
    assert isinstance(seen.refusal, errors.Forbidden)


# === OWNERS AND DRIFT === #


def test_rivals_change_is_drift_that_names_them(connection, namespace, live, rival):
    applied = verbs.apply(connection, INSTANCE, manifest(namespace), uid=None)
    stored = ownership.owned_fields(applied.object)
    assert stored
    assert ownership.drift(stored, live()) == ()
    rival({**chart_version("9.9.9"), "metadata": {"labels": {"team": "a"}}})
    (drifted,) = ownership.drift(stored, live())
    assert (drifted.field, drifted.live_value, drifted.present) == (
        VERSION,
        "9.9.9",
        True,
    )
    (manager,) = drifted.managers
    assert (manager.name, manager.operation) == (RIVAL, "Update")
    assert manager.since
    assert names(ownership.other_owners(live(), VERSION)) == [RIVAL]
    assert ownership.other_owners(live(), USER) == ()


def test_field_that_a_rival_removed_is_drift_of_nobody(
    connection, namespace, live, rival
):
    applied = verbs.apply(connection, INSTANCE, manifest(namespace), uid=None)
    rival(inline(auth=None))
    stored = ownership.owned_fields(applied.object)
    assert ownership.drift(stored, live()) == (
        ownership.DriftedField(USER, live_value=None, present=False, managers=()),
    )


def test_map_that_a_rival_replaced_is_drift_to_them(connection, namespace, live, rival):
    applied = verbs.apply(connection, INSTANCE, manifest(namespace), uid=None)
    rival(inline(auth="none"))
    (drifted,) = ownership.drift(ownership.owned_fields(applied.object), live())
    assert (drifted.field, drifted.present) == (USER, False)
    assert names(drifted.managers) == [RIVAL]


def test_part_of_a_list_that_a_rival_wrote_is_drift_of_the_list(
    connection, namespace, live, rival
):
    applied = verbs.apply(connection, INSTANCE, manifest(namespace), uid=None)
    rival(inline(hosts=["a", "c"]))
    (drifted,) = ownership.drift(ownership.owned_fields(applied.object), live())
    assert (drifted.field, drifted.live_value) == (
        ".spec.values.inline.hosts",
        ["a", "c"],
    )


def test_owners_are_everybody_who_has_a_field(
    control_plane, connection, namespace, live, rival
):
    verbs.apply(connection, INSTANCE, manifest(namespace), uid=None)
    rival({"metadata": {"labels": {"team": "a"}}})
    patch_status(control_plane, namespace, ready_status())
    rival_too = manifest(namespace, inline={"replicas": 2})
    control_plane.request(
        "PATCH",
        INSTANCE.path("wiki", namespace),
        body=rival_too,
        query={"fieldManager": "flux"},
        content_type="application/apply-patch+yaml",
    )
    found = by_field(ownership.owners(live()))
    assert list(found) == sorted(found)
    assert found[".metadata.labels.team"].value == "a"
    assert not found[".metadata.labels.team"].ours
    assert found[REPLICAS].ours
    assert names(found[REPLICAS].managers) == ["flux", "vworkspace-odoo"]
    assert names(found[USER].managers) == ["vworkspace-odoo"]
    status = found['.status.conditions[type="Ready"].status']
    assert [m.subresource for m in status.managers] == ["status"]
    assert ".spec.values.inline" not in found
    assert ".spec.mode" not in found  # a default is nobody's
    assert names(ownership.other_owners(live(), REPLICAS)) == ["flux"]


def test_given_up_field_stays_with_its_other_owner_alone(
    control_plane, connection, namespace, live
):
    wanted = manifest(namespace)
    first = verbs.apply(connection, INSTANCE, wanted, uid=None)
    control_plane.request(
        "PATCH",
        INSTANCE.path("wiki", namespace),
        body=manifest(namespace, inline={"replicas": 2}),
        query={"fieldManager": "flux"},
        content_type="application/apply-patch+yaml",
    )
    less = ownership.without(wanted, [REPLICAS, USER])
    verbs.apply(connection, INSTANCE, less, uid=first.uid)
    assert ownership.value_at(live(), ".spec.values.inline") == {
        "replicas": 2,
        "hosts": ["a", "b"],
    }
    assert names(by_field(ownership.owners(live()))[REPLICAS].managers) == ["flux"]


# === ADOPTION === #


def test_adoption_from_kubectl_leaves_no_conflict_and_one_entry_of_ours(
    control_plane, connection, namespace, live
):
    wanted = manifest(namespace)
    more = deepcopy(wanted)
    more["metadata"]["labels"]["team"] = "a"
    control_plane.kubectl("apply", "-f", "-", input=json.dumps(more))
    before = live()
    uid = before["metadata"]["uid"]
    newer = manifest(namespace, version="2.0.0")
    adopted = verbs.adopt(connection, INSTANCE, newer, uid=uid)
    assert (VERSION, "kubectl-client-side-apply") in adopted.moved
    assert adopted.object == live()
    assert adopted.audit_id
    assert live()["spec"] == before["spec"]
    verbs.apply(connection, INSTANCE, newer, uid=uid)
    assert sorted(managed(live())) == [
        ("kubectl-client-side-apply", "Update"),
        ("vworkspace-odoo", "Apply"),
    ]
    found = by_field(ownership.owners(live()))
    assert names(found[VERSION].managers) == ["vworkspace-odoo"]
    assert names(found[".metadata.labels.team"].managers) == [
        "kubectl-client-side-apply"
    ]
    again = verbs.adopt(connection, INSTANCE, newer, uid=uid)
    assert again.moved == ()


def test_adoption_from_an_agent_keeps_what_we_do_not_apply(
    control_plane, connection, namespace, live
):
    control_plane.request(
        "PATCH",
        INSTANCE.path("wiki", namespace),
        body=manifest(namespace, inline={"replicas": 2, "agent": {"only": True}}),
        query={"fieldManager": "vworkspace-agent"},
        content_type="application/apply-patch+yaml",
    )
    patch_status(control_plane, namespace, ready_status())
    before = live()
    uid = before["metadata"]["uid"]
    wanted = manifest(namespace, version="2.0.0", inline={"replicas": 3})
    with pytest.raises(errors.Conflict):
        verbs.apply(connection, INSTANCE, wanted, uid=uid)
    adopted = verbs.adopt(connection, INSTANCE, wanted, uid=uid)
    assert {(VERSION, "vworkspace-agent"), (REPLICAS, "vworkspace-agent")} <= set(
        adopted.moved
    )
    assert live()["spec"] == before["spec"]
    verbs.apply(connection, INSTANCE, wanted, uid=uid)
    assert ownership.value_at(live(), ".spec.values.inline") == {
        "replicas": 3,
        "agent": {"only": True},
    }
    assert sorted(managed(live())) == [
        ("vworkspace-agent", "Apply"),
        ("vworkspace-odoo", "Apply"),
        ("vworkspace-operator", "Update"),
    ]


def test_adoption_joins_the_entry_that_we_have(
    control_plane, connection, namespace, live, rival
):
    wanted = manifest(namespace)
    first = verbs.apply(connection, INSTANCE, wanted, uid=None)
    rival(chart_version("9.9.9"), manager="vworkspace-agent")
    adopted = verbs.adopt(connection, INSTANCE, wanted, uid=first.uid)
    assert adopted.moved == ((VERSION, "vworkspace-agent"),)
    assert managed(live()) == [("vworkspace-odoo", "Apply")]
    assert ownership.value_at(live(), VERSION) == "9.9.9"
    assert ownership.owned_fields(live()) == ownership.owned_fields(first.object)
    verbs.apply(connection, INSTANCE, wanted, uid=first.uid)
    assert ownership.value_at(live(), VERSION) == "1.4.2"


def test_adoption_starts_over_when_its_object_moved(connection, namespace, live, rival):
    wanted = manifest(namespace)
    first = verbs.apply(connection, INSTANCE, wanted, uid=None)
    rival(chart_version("9.9.9"), manager="vworkspace-agent")
    connection.meddle(
        2,
        when=lambda method, query: method == "PATCH",
        act=lambda: rival(inline(extra=connection.times)),
    )
    verbs.adopt(connection, INSTANCE, wanted, uid=first.uid)
    assert connection.times == 0
    assert set(managed(live())) == {("vworkspace-odoo", "Apply"), (RIVAL, "Update")}


def test_adoption_gives_up_on_an_object_that_never_rests(
    connection, namespace, live, rival
):
    wanted = manifest(namespace)
    first = verbs.apply(connection, INSTANCE, wanted, uid=None)
    rival(chart_version("9.9.9"), manager="vworkspace-agent")
    connection.meddle(
        verbs.TRIES,
        when=lambda method, query: method == "PATCH",
        act=lambda: rival(inline(extra=connection.times)),
    )
    with pytest.raises(errors.StaleVersion):
        verbs.adopt(connection, INSTANCE, wanted, uid=first.uid)
    assert ("vworkspace-agent", "Update") in managed(live())


def test_adoption_of_another_object_changes_nothing(
    control_plane, connection, namespace, live
):
    first = verbs.apply(connection, INSTANCE, manifest(namespace), uid=None)
    delete_object(control_plane, namespace)
    with pytest.raises(errors.IdentityMismatch):
        verbs.adopt(connection, INSTANCE, manifest(namespace), uid=first.uid)
    before = create_object(control_plane, namespace, "wiki")
    with pytest.raises(errors.IdentityMismatch):
        verbs.adopt(connection, INSTANCE, manifest(namespace), uid=first.uid)
    assert live() == before
