"""From the button to the cluster and back into the record, on the real API server."""

import json
import threading

import pytest

RIVAL = "rival"


def test_deploy_creates_the_object_and_stores_what_the_server_answered(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance()

    deploy(instance)

    live = live_object(control_plane, namespace)
    stored = database.read(instance, "delivery_state", "uid", "resource_version")
    assert stored["delivery_state"] == "applied"
    assert stored["uid"] == live["metadata"]["uid"]
    assert live["metadata"]["generation"] == 1
    assert live["spec"]["values"]["inline"] == {"replicas": 1}
    assert live["metadata"]["labels"] == {
        "app.vworkspace.io/managed-by": "control-plane",
        "app.vworkspace.io/cluster-id": "test-cluster",
    }


def test_we_own_the_object_by_one_apply_entry_without_status(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance()
    deploy(instance)
    change(database, instance, chart_version="1.5.0")
    deploy(instance)

    entries = [
        entry
        for entry in live_object(control_plane, namespace)["metadata"]["managedFields"]
        if entry["manager"] == "vworkspace-odoo"
    ]

    assert [entry["operation"] for entry in entries] == ["Apply"]
    assert "subresource" not in entries[0]
    assert set(entries[0]["fieldsV1"]) == {"f:metadata", "f:spec"}


def test_intent_is_committed_before_the_network_is_touched(
    database, make_instance, monkeypatch
):
    from odoo.addons.vworkspace_push.kube import apply

    instance = make_instance()
    seen = {}
    real_apply = apply.apply

    def spy(*args, **kwargs):
        seen.update(database.read(instance, "delivery_state", "intent_revision"))
        return real_apply(*args, **kwargs)

    monkeypatch.setattr(apply, "apply", spy)
    database.call("admin", instance._name, "action_deploy", instance.ids)

    assert seen["delivery_state"] == "pending"
    assert seen["intent_revision"] == 1
    assert database.read(instance, "delivery_state") == "applied"


def test_a_rolled_back_deploy_sends_nothing(
    database, make_instance, control_plane, namespace
):
    instance = make_instance()

    with database.transaction() as env:
        env[instance._name].browse(instance.ids).action_deploy()
        env.cr.rollback()

    assert database.read(instance, "delivery_state") == "draft"
    assert "No resources found" in control_plane.kubectl(
        "get", "applicationinstance", "-n", namespace, check=False
    )


def test_an_edit_made_during_an_apply_is_delivered_next_and_not_marked_applied(
    database, make_instance, deploy, control_plane, namespace, monkeypatch
):
    from odoo.addons.vworkspace_push.kube import apply

    instance = make_instance()
    deploy(instance)
    change(database, instance, chart_version="2.0.0")
    versions = []
    real_apply = apply.apply

    def edit_meanwhile(connection, resource, manifest, **kwargs):
        versions.append(manifest["spec"]["chart"]["version"])
        if len(versions) == 1:
            change(database, instance, chart_version="3.0.0")
            editor = threading.Thread(target=deploy, args=[instance])
            editor.start()
            editor.join(30)
        return real_apply(connection, resource, manifest, **kwargs)

    monkeypatch.setattr(apply, "apply", edit_meanwhile)
    deploy(instance)

    assert versions == ["2.0.0", "3.0.0"]
    live = live_object(control_plane, namespace)
    assert live["spec"]["chart"]["version"] == "3.0.0"
    stored = database.read(instance, "delivery_state", "delivered_revision")
    assert (stored["delivery_state"], stored["delivered_revision"]) == ("applied", 3)


def test_what_was_applied_is_known_although_a_newer_intent_is_refused(
    database, make_instance, deploy, monkeypatch
):
    from odoo.addons.vworkspace_push.kube import apply
    from odoo.addons.vworkspace_push.kube.errors import Denied

    instance = make_instance()
    real_apply = apply.apply

    def edit_meanwhile(connection, resource, manifest, **kwargs):
        if manifest["spec"]["chart"]["version"] == "3.0.0":
            raise Denied("Not this version.")
        change(database, instance, chart_version="3.0.0")
        editor = threading.Thread(target=deploy, args=[instance])
        editor.start()
        editor.join(30)
        return real_apply(connection, resource, manifest, **kwargs)

    monkeypatch.setattr(apply, "apply", edit_meanwhile)
    deploy(instance)

    with database.transaction() as env:
        stored = env[instance._name].browse(instance.ids)
        assert stored.delivery_state == "denied"
        assert stored.applied_revision_id.number == stored.delivered_revision == 1
        assert "f:chart" in stored.applied_fields


def test_conflict_keeps_the_live_value_and_names_the_other_manager(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance()
    deploy(instance)
    overwrite_as_rival(control_plane, namespace, version="6.0.0")
    change(database, instance, chart_version="1.5.0")

    deploy(instance)

    assert database.read(instance, "delivery_state") == "conflict"
    with database.transaction() as env:
        (conflict,) = env[instance._name].browse(instance.ids).conflict_ids
        assert conflict.field == ".spec.chart.version"
        assert conflict.manager == RIVAL
        assert conflict.our_value == '"1.5.0"'
        assert conflict.live_value == '"6.0.0"'
        assert conflict.since
    live = live_object(control_plane, namespace)
    assert live["spec"]["chart"]["version"] == "6.0.0"
    assert database.read(instance, "chart_version") == "1.5.0"


def test_a_conflict_ends_when_the_values_agree(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance()
    deploy(instance)
    overwrite_as_rival(control_plane, namespace, version="6.0.0")
    change(database, instance, chart_version="1.5.0")
    deploy(instance)
    change(database, instance, chart_version="6.0.0")

    deploy(instance)

    stored = database.read(instance, "delivery_state", "conflict_ids")
    assert (stored["delivery_state"], stored["conflict_ids"]) == ("applied", [])


@pytest.mark.parametrize("recreate", [False, True], ids=["vanished", "replaced"])
def test_an_object_that_is_not_ours_any_more_is_never_written_to(
    database, make_instance, deploy, control_plane, namespace, recreate
):
    instance = make_instance()
    deploy(instance)
    before = live_object(control_plane, namespace)
    control_plane.kubectl("delete", "applicationinstance", "wiki", "-n", namespace)
    if recreate:
        kept = {"apiVersion", "kind", "spec"}
        other = {key: before[key] for key in kept}
        other["metadata"] = {"name": "wiki", "namespace": namespace}
        other["spec"]["chart"]["version"] = "9.9.9"
        control_plane.kubectl("create", "-f", "-", input=json.dumps(other))

    send_again(database, instance)

    assert database.read(instance, "delivery_state") == "lost"
    if recreate:
        live = live_object(control_plane, namespace)
        assert live["spec"]["chart"]["version"] == "9.9.9"
    else:
        missing = control_plane.kubectl(
            "get", "applicationinstance", "wiki", "-n", namespace, check=False
        )
        assert "NotFound" in missing


def test_starting_over_after_a_loss_creates_a_new_object(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance()
    deploy(instance)
    first = database.read(instance, "uid")
    control_plane.kubectl("delete", "applicationinstance", "wiki", "-n", namespace)
    send_again(database, instance)

    database.call("admin", instance._name, "action_forget_lost", instance.ids)
    deploy(instance)

    stored = database.read(instance, "delivery_state", "uid")
    assert stored["delivery_state"] == "applied"
    assert stored["uid"] not in (False, first)


def test_deleting_from_the_cluster_ends_with_the_object_gone(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance()
    deploy(instance)

    database.call("admin", instance._name, "action_delete_from_cluster", instance.ids)

    assert database.read(instance, "delivery_state") == "deleted"
    missing = control_plane.kubectl(
        "get", "applicationinstance", "wiki", "-n", namespace, check=False
    )
    assert "NotFound" in missing
    database.call("admin", instance._name, "unlink", instance.ids)


def test_deleting_waits_for_finalizers_and_says_which(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance()
    deploy(instance)
    finalizer = "example.com/backup"
    patch(control_plane, namespace, {"metadata": {"finalizers": [finalizer]}})

    database.call("admin", instance._name, "action_delete_from_cluster", instance.ids)

    stored = database.read(instance, "delivery_state", "waiting_for", "health")
    assert stored["delivery_state"] == "deleting"
    assert finalizer in stored["waiting_for"]
    assert stored["health"] == "deleting"
    patch(control_plane, namespace, {"metadata": {"finalizers": []}})


def test_what_exists_in_a_cluster_cannot_be_deleted_here_alone(
    database, make_instance, deploy
):
    from odoo.exceptions import UserError

    instance = make_instance()
    deploy(instance)

    with pytest.raises(UserError, match="Delete from Cluster"):
        database.call("admin", instance._name, "unlink", instance.ids)


def test_name_and_place_stay_once_deployed(database, make_instance, deploy):
    from odoo.exceptions import UserError

    instance = make_instance()
    deploy(instance)

    with pytest.raises(UserError, match="cannot change"):
        database.call("admin", instance._name, "write", instance.ids, {"name": "other"})


def test_a_namespace_without_rights_is_denied_in_the_servers_words(
    database, cluster, make_instance, deploy, control_plane
):
    control_plane.create_namespace("test-no-rights")
    with database.transaction() as env:
        place = env["vworkspace.cluster.namespace"].create(
            {"cluster_id": cluster.id, "name": "test-no-rights"}
        )
    instance = make_instance(namespace_id=place.id)

    deploy(instance)

    stored = database.read(
        instance, "delivery_state", "delivery_message", "chart_version"
    )
    assert stored["delivery_state"] == "denied"
    assert "cannot patch resource" in stored["delivery_message"]
    assert stored["chart_version"] == "1.4.2"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"chart_version": "^1.4.0"}, "does not name one version"),
        ({"chart_version": "latest"}, "does not name one version"),
        ({"chart_url": "ftp://example.com"}, "oci://"),
        ({"values_yaml": "a: [1"}, "not valid YAML"),
        ({"values_yaml": "auth:\n  password: hunter2\n"}, "auth.password"),
        ({"name": "Not A Name"}, "Name"),
    ],
    ids=["range", "latest", "scheme", "yaml", "secret", "name"],
)
def test_bad_input_is_kept_and_refused_in_a_sentence(
    database, make_instance, deploy, values, sentence
):
    from odoo.exceptions import UserError

    instance = make_instance(**values)

    problems = database.read(instance, "problems")
    with pytest.raises(UserError) as refusal:
        deploy(instance)

    assert sentence in problems
    assert problems in str(refusal.value)
    (field,) = values
    assert database.read(instance, field) == values[field]
    assert database.read(instance, "delivery_state") == "draft"


def test_what_is_sent_follows_the_values_text(
    database, make_instance, deploy, control_plane, namespace
):
    from odoo.exceptions import UserError

    instance = make_instance(values_yaml="replicas: 1\n")
    change(database, instance, values_yaml="replicas: [")
    with pytest.raises(UserError, match="not valid YAML"):
        deploy(instance)
    change(database, instance, values_yaml="text: grüße\nreplicas: 2\nratio: 1.0\n")

    deploy(instance)

    inline = live_object(control_plane, namespace)["spec"]["values"]["inline"]
    assert inline == {"text": "grüße", "replicas": 2, "ratio": 1}


def test_values_that_were_never_parsed_are_sent_all_the_same(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance(values_yaml="replicas: 3\n")
    database.sql(
        "UPDATE vworkspace_application_instance SET values_json = NULL WHERE id = %s",
        instance.id,
    )

    deploy(instance)

    inline = live_object(control_plane, namespace)["spec"]["values"]["inline"]
    assert inline == {"replicas": 3}


def test_a_bulk_deployment_names_all_that_cannot_be_and_deploys_none(
    database, make_instance
):
    from odoo.exceptions import UserError

    good = make_instance("good")
    bad = [
        make_instance(f"bad-{number:02}", chart_version="latest")
        for number in range(22)
    ]
    ids = good.ids + [record.id for record in bad]

    with pytest.raises(UserError) as refusal:
        database.call("admin", good._name, "action_deploy", ids)

    said = str(refusal.value)
    assert said.startswith("Nothing was deployed, since 22 of these cannot be.")
    assert [f"bad-{number:02}:" in said for number in range(22)] == (
        [True] * 20 + [False] * 2
    )
    assert "good" not in said
    assert said.endswith("… and 2 more.")
    assert database.read(good, "delivery_state") == "draft"


# === HELPERS === #


def send_again(database, instance):
    database.call("admin", instance._name, "action_send_again", instance.ids)


def live_object(control_plane, namespace, name="wiki"):
    """Return the object as kubectl shows it, managed fields included."""
    text = control_plane.kubectl(
        *("get", "applicationinstance", name, "-n", namespace),
        *("-o", "json", "--show-managed-fields"),
    )
    return json.loads(text)


def change(database, instance, **values):
    database.call("admin", instance._name, "write", instance.ids, values)


def patch(control_plane, namespace, body):
    control_plane.kubectl(
        *("patch", "applicationinstance", "wiki", "-n", namespace),
        *("--type", "merge", "--field-manager", RIVAL, "-p", json.dumps(body)),
    )


def overwrite_as_rival(control_plane, namespace, *, version):
    patch(control_plane, namespace, {"spec": {"chart": {"version": version}}})
