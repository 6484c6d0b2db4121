"""Every saved intent is kept: who wanted it, what it changed, how it ended."""

import pytest

from tests.deliveries import (
    INSTANCE,
    act,
    change,
    make_pending,
    revisions,
    set_version,
)
from tests.live_objects import get_object
from tests.registration import Spy

YAML = "# As measured in May\nreplicas: 1  # one is enough\nsize: 'big'\n"


# === WHAT IS KEPT === #


def test_a_deployment_makes_a_revision_with_its_user_its_changes_and_its_outcome(
    database, make_instance, deploy
):
    instance = make_instance()
    deploy(instance)
    change(database, instance, chart_version="1.5.0", values_yaml="replicas: 2\n")

    deploy(instance)

    first, second = revisions(
        *(database, instance, "number", "kind", "user_id", "diff"),
        *("outcome", "finished_at", "is_current"),
    )
    assert (first["number"], second["number"]) == (1, 2)
    assert '+ .spec.chart.version: "1.4.2"' in first["diff"].splitlines()
    assert second["diff"].splitlines() == [
        '~ .spec.chart.version: "1.4.2" → "1.5.0"',
        "~ .spec.values.inline.replicas: 1 → 2",
    ]
    with database.transaction() as env:
        user = (env.uid, env.user.display_name)
    for revision in (first, second):
        assert (revision["kind"], revision["outcome"]) == ("deploy", "applied")
        assert revision["user_id"] == user
        assert revision["finished_at"]
    assert (first["is_current"], second["is_current"]) == (False, True)


def test_an_unchanged_deployment_makes_no_revision_and_sends_nothing(
    database, make_instance, deploy, monkeypatch
):
    instance = make_instance()
    deploy(instance)
    spy = Spy(monkeypatch)

    deploy(instance)

    assert spy.sent == []
    assert [r["number"] for r in revisions(database, instance, "number")] == [1]


def test_a_comment_in_the_values_is_no_change(
    database, make_instance, deploy, monkeypatch
):
    instance = make_instance(values_yaml="replicas: 1\n")
    deploy(instance)
    spy = Spy(monkeypatch)
    change(database, instance, values_yaml="replicas: 1  # as ever\n")

    deploy(instance)

    assert spy.sent == []
    assert database.read(instance, "is_changed") is False


def test_what_failed_keeps_its_end_in_the_clusters_words(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance()
    deploy(instance)
    set_version(control_plane, namespace, "6.0.0")
    change(database, instance, chart_version="1.5.0")

    deploy(instance)

    _first, second = revisions(database, instance, "outcome", "message", "is_current")
    assert second["outcome"] == "conflict"
    assert second["message"]
    assert second["is_current"] is False
    current = database.read(instance, "applied_revision_id", "revision_id")
    assert current["applied_revision_id"] != current["revision_id"]


def test_a_revision_that_was_overtaken_on_its_way_keeps_its_outcome(
    database, make_instance, deploy, monkeypatch
):
    from odoo.addons.vworkspace_push.kube import apply

    instance = make_instance()
    deploy(instance)
    change(database, instance, chart_version="2.0.0")
    real_apply = apply.apply

    def edit_meanwhile(connection, resource, manifest, **keywords):
        if manifest["spec"]["chart"]["version"] == "2.0.0":
            change(database, instance, chart_version="3.0.0")
            make_pending(database, instance)
        return real_apply(connection, resource, manifest, **keywords)

    monkeypatch.setattr(apply, "apply", edit_meanwhile)
    deploy(instance)

    outcomes = [r["outcome"] for r in revisions(database, instance, "outcome")]
    assert outcomes == ["applied", "applied", "applied"]
    assert database.read(instance, "delivered_revision") == 3


def test_deleting_from_the_cluster_is_a_revision_too(database, make_instance, deploy):
    instance = make_instance()
    deploy(instance)

    act(database, instance, "action_delete_from_cluster")

    _first, second = revisions(database, instance, "kind", "diff", "outcome")
    assert second == {"kind": "delete", "diff": False, "outcome": "deleted"}


# === GOING BACK === #


def test_rolling_back_is_a_new_revision_with_the_old_content_as_it_was_written(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance(values_yaml=YAML, with_cert_manager=True)
    deploy(instance)
    change(
        *(database, instance),
        values_yaml="replicas: 5\n",
        chart_version="2.0.0",
        with_cert_manager=False,
    )
    deploy(instance)

    roll_back(database, instance, to=1)

    live = get_object(control_plane, namespace)["spec"]
    assert live["values"]["inline"] == {"replicas": 1, "size": "big"}
    assert live["chart"]["version"] == "1.4.2"
    stored = database.read(
        instance, "values_yaml", "chart_version", "with_cert_manager", "delivery_state"
    )
    assert stored["values_yaml"] == YAML
    assert (stored["chart_version"], stored["with_cert_manager"]) == ("1.4.2", True)
    assert stored["delivery_state"] == "applied"
    first, _second, third = revisions(
        database, instance, "number", "manifest", "desired", "reason"
    )
    assert third["number"] == 3
    assert third["reason"] == "Back to revision 1."
    assert third["manifest"] == first["manifest"]
    assert third["desired"] == first["desired"]


def test_rolling_back_brings_capabilities_back(
    database, make_instance, deploy, control_plane, namespace
):
    backup = {"capability": "backup", "engine": "velero"}
    instance = make_instance(capability_ids=[(0, 0, backup)])
    deploy(instance)
    before = get_object(control_plane, namespace)["metadata"]["annotations"]
    change(database, instance, capability_ids=[(5, 0, 0)])
    deploy(instance)

    roll_back(database, instance, to=1)

    with database.transaction() as env:
        capability = env[INSTANCE].browse(instance.ids).capability_ids
        assert (capability.capability, capability.engine) == ("backup", "velero")
    live = get_object(control_plane, namespace)
    assert live["metadata"]["annotations"] == before


def test_there_is_no_way_back_to_a_deletion(database, make_instance, deploy):
    from odoo.exceptions import UserError

    instance = make_instance()
    deploy(instance)
    act(database, instance, "action_delete_from_cluster")

    with pytest.raises(UserError, match="Only a revision that was deployed"):
        roll_back(database, instance, to=2)


# === WHAT NOBODY MAY === #


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("write", {"outcome": "applied"}),
        ("write", {"manifest": "{}"}),
        ("write", {"user_id": 1}),
        ("create", {}),
        ("unlink", None),
    ],
    ids=["outcome", "manifest", "user", "create", "unlink"],
)
def test_a_revision_cannot_be_forged(database, make_instance, deploy, method, values):
    from odoo.exceptions import AccessError

    instance = make_instance()
    deploy(instance)
    revision_id, _name = database.read(instance, "revision_id")
    record = {"res_model": INSTANCE, "res_id": instance.id, "number": 9}
    arguments = {
        "write": ([revision_id], values),
        "create": ([{**record, "kind": "deploy"}],),
        "unlink": ([revision_id],),
    }[method]

    for context in ({}, {"vworkspace_writer": True}):
        with pytest.raises(AccessError):
            database.call(
                "admin", "vworkspace.revision", method, *arguments, context=context
            )

    assert [r["number"] for r in revisions(database, instance, "number")] == [1]


def test_a_revision_cannot_be_forged_in_superuser_mode_either(
    database, make_instance, deploy
):
    from odoo.exceptions import AccessError

    instance = make_instance()
    deploy(instance)

    with (
        pytest.raises(AccessError, match="cannot be written by hand"),
        database.transaction() as env,
    ):
        env[INSTANCE].browse(instance.ids).revision_id.sudo().manifest = "{}"


def test_the_revisions_end_with_their_record(database, make_instance, deploy):
    instance = make_instance()
    deploy(instance)
    act(database, instance, "action_delete_from_cluster")
    assert len(revisions(database, instance, "number")) == 2

    act(database, instance, "unlink")

    assert not database.sql(
        "SELECT id FROM vworkspace_revision WHERE res_model = %s AND res_id = %s",
        INSTANCE,
        instance.id,
    )


def test_a_secret_of_old_is_masked_wherever_a_revision_is_shown(
    database, make_instance, deploy
):
    instance = make_instance(values_yaml="auth:\n  user: ada\n")
    deploy(instance)
    database.sql(
        """UPDATE vworkspace_revision
              SET manifest = replace(manifest, '"user": "ada"',
                                     '"user": "ada", "password": "hunter2"')
            WHERE res_model = %s AND res_id = %s""",
        INSTANCE,
        instance.id,
    )

    change(database, instance, chart_version="1.5.0")
    deploy(instance)

    first, second = revisions(database, instance, "manifest_text", "diff")
    assert "hunter2" not in first["manifest_text"] + second["diff"]
    assert '- .spec.values.inline.auth.password: "•••"' in second["diff"].splitlines()
    assert '"password": "•••"' in first["manifest_text"]


# === HELPERS === #


def roll_back(database, instance, *, to, login="admin"):
    with database.transaction() as env:
        found = env[INSTANCE].browse(instance.ids).revision_ids
        (revision_id,) = found.filtered(lambda r: r.number == to).ids
    database.call(login, "vworkspace.revision", "action_roll_back", [revision_id])
