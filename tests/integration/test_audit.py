"""Who did what, and what the cluster said: written with the outcome, never changed."""

import hashlib
import json

import pytest

from environment.processes import free_port
from tests.deliveries import INSTANCE, act, audit, become_due, change, set_version
from tests.integration.conftest import activate, spoil
from tests.registration import Spy

ENTRY = "vworkspace.audit.entry"
RETENTION = "vworkspace_push.audit_retention_days"


# === WHAT IS IN IT === #


def test_an_entry_says_who_did_what_and_what_the_cluster_answered(
    database, cluster, make_instance, deploy, namespace, monkeypatch
):
    instance = make_instance()
    deploy(instance)
    change(database, instance, chart_version="1.5.0")
    spy = Spy(monkeypatch)

    deploy(instance)

    with database.transaction() as env:
        entry = env[ENTRY].search([("res_id", "=", instance.id)], limit=1)
        record = env[INSTANCE].browse(instance.ids)
        assert entry.user_id == env.user
        assert (entry.action, entry.outcome) == ("deploy", "applied")
        assert entry.revision == record.intent_revision == 2
        assert entry.diff == '~ .spec.chart.version: "1.4.2" → "1.5.0"'
        assert (entry.res_model, entry.res_name) == (INSTANCE, "wiki")
        assert (entry.namespace, entry.cluster_id.id) == (namespace, cluster.id)
        assert entry.company_id == record.company_id
        assert entry.server_audit_id
        assert 0 < entry.duration < 30_000
        credential_sudo = entry.cluster_id.sudo().active_credential_id
        assert entry.credential == credential_sudo.display_name
    ((_method, _path, _query, sent),) = spy.sent
    sent["metadata"].pop("uid")
    text = json.dumps(sent, sort_keys=True, separators=(",", ":"))
    assert entry_digest(database, instance) == hashlib.sha256(text.encode()).hexdigest()


def test_what_was_refused_is_told_with_the_clusters_words(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance()
    deploy(instance)
    set_version(control_plane, namespace, "6.0.0")
    change(database, instance, chart_version="1.5.0")

    deploy(instance)

    last = audit(
        *(database, instance),
        *("action", "outcome", "message", "server_audit_id"),
    )[-1]
    assert (last["action"], last["outcome"]) == ("deploy", "conflict")
    assert last["message"] == database.read(instance, "delivery_message")
    assert last["server_audit_id"]


def test_no_token_is_in_any_entry(database, make_instance, deploy, control_plane):
    instance = make_instance()
    deploy(instance)

    rows = database.sql(
        "SELECT row_to_json(entry)::text FROM vworkspace_audit_entry entry"
    )

    with database.transaction() as env:
        cluster_sudo = env[INSTANCE].browse(instance.ids).cluster_id.sudo()
        token = cluster_sudo.active_credential_id._open()["token"]
    assert rows
    assert not [text for (text,) in rows if token in text or "eyJ" in text]


@pytest.mark.expect_log("cannot be stored")
def test_an_entry_is_stored_with_its_outcome_or_not_at_all(
    database, make_instance, deploy, monkeypatch
):
    from odoo.addons.vworkspace_push.delivery import store

    instance = make_instance()

    def crash(*_arguments):
        raise RuntimeError("crashed here")

    with monkeypatch.context() as patched:
        patched.setattr(store, "_store_reported_objects", crash)
        deploy(instance)
    assert database.read(instance, "delivery_state") == "pending"
    assert audit(database, instance, "action") == []

    become_due(database, instance)
    database.run_cron("ir_cron_deliver")

    assert [entry["action"] for entry in audit(database, instance, "action")] == [
        "deploy"
    ]


def test_a_failure_that_only_repeats_itself_is_told_once(
    database, control_plane, make_instance, namespace
):
    instance = make_instance(**broken_place(database, control_plane, namespace))
    act(database, instance, "action_deploy")

    for _attempt in range(2):
        database.sql("DELETE FROM vworkspace_delivery_lane")
        become_due(database, instance)
        database.run_cron("ir_cron_deliver")

    assert database.read(instance, "delivery_attempts") == 3
    entries = audit(database, instance, "action", "outcome")
    assert entries == [{"action": "deploy", "outcome": "failed"}]


def test_who_had_it_delivered_at_once_and_who_started_over_is_told(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance()
    act(database, instance, "action_pause")
    deploy(instance)
    deploy(instance)  # it waits already
    act(database, instance, "action_resume")
    control_plane.kubectl("delete", "applicationinstance", "wiki", "-n", namespace)
    act(database, instance, "action_send_again")

    act(database, instance, "action_forget_lost")

    told = [entry["action"] for entry in audit(database, instance, "action")]
    assert told == ["pause", "deploy_now", "resume", "deploy", "deploy", "start_over"]


def test_what_was_overtaken_on_its_way_is_told_as_well(
    database, make_instance, deploy, monkeypatch
):
    from odoo.addons.vworkspace_push.kube import apply

    instance = make_instance()
    real_apply = apply.apply

    def edit_meanwhile(connection, resource, manifest, **keywords):
        if manifest["spec"]["chart"]["version"] == "1.4.2":
            change(database, instance, chart_version="2.0.0")
            with database.transaction() as env:
                env[INSTANCE].browse(instance.ids).action_deploy()
                env.cr.postcommit.clear()
        return real_apply(connection, resource, manifest, **keywords)

    monkeypatch.setattr(apply, "apply", edit_meanwhile)
    deploy(instance)

    entries = audit(database, instance, "revision", "outcome", "diff")
    assert [(e["revision"], e["outcome"]) for e in entries] == [
        (1, "applied"),
        (2, "applied"),
    ]
    assert entries[1]["diff"] == '~ .spec.chart.version: "1.4.2" → "2.0.0"'


# === NOBODY CHANGES IT === #


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE vworkspace_audit_entry SET outcome = 'applied'",
        "UPDATE vworkspace_audit_entry SET user_id = 1 WHERE id = %(id)s",
        "DELETE FROM vworkspace_audit_entry WHERE id = %(id)s",
        "DELETE FROM vworkspace_audit_entry",
        "TRUNCATE vworkspace_audit_entry",
        "TRUNCATE vworkspace_audit_entry CASCADE",
    ],
)
def test_the_database_refuses_every_change(database, postgres, entry_id, statement):
    import psycopg2

    connection = postgres.connect(database.name)
    try:
        with (
            connection.cursor() as cr,
            pytest.raises(psycopg2.errors.InsufficientPrivilege, match="added to"),
        ):
            cr.execute(statement, {"id": entry_id})
    finally:
        connection.rollback()
        connection.close()


def test_the_superuser_of_the_database_is_refused_too(database, postgres, entry_id):
    import psycopg2

    ((is_superuser,),) = database.sql(
        "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
    )
    role = None if is_superuser else superuser_role(database)
    connection = postgres.connect(database.name, **({"user": role} if role else {}))
    try:
        with (
            connection.cursor() as cr,
            pytest.raises(psycopg2.errors.InsufficientPrivilege, match="added to"),
        ):
            cr.execute("DELETE FROM vworkspace_audit_entry WHERE id = %s", [entry_id])
    finally:
        connection.rollback()
        connection.close()


@pytest.mark.parametrize("login", ["admin", "audit-operator"])
def test_users_cannot_write_it_over_the_interface(
    database, operator_user, entry_id, login
):
    from odoo.exceptions import AccessError

    values = {"action": "deploy", "outcome": "applied", "date": "2026-01-01"}
    for method, *arguments in [
        ("create", [values]),
        ("write", [entry_id], {"outcome": "denied"}),
        ("unlink", [entry_id]),
        ("copy", [entry_id]),
    ]:
        with pytest.raises(AccessError):
            database.call(login, ENTRY, method, *arguments)


@pytest.mark.parametrize(
    ("method", "arguments"), [("write", [{"outcome": "denied"}]), ("unlink", [])]
)
def test_superuser_mode_in_odoo_does_not_change_it_either(
    database, entry_id, method, arguments
):
    def change_it(env):
        getattr(env[ENTRY].sudo().browse(entry_id), method)(*arguments)
        env.flush_all()

    assert_refused(database, change_it)


def test_other_companies_entries_are_invisible(database, cluster, entry_id):
    from odoo.exceptions import AccessError

    with database.transaction() as env:
        company = env["res.company"].sudo().create({"name": "Another Company"})
        group = env.ref("vworkspace_push.group_admin")
        env["res.users"].create(
            {
                "name": "foreign",
                "login": "audit-foreign",
                "group_ids": [(6, 0, group.ids)],
                "company_id": company.id,
                "company_ids": [(6, 0, company.ids)],
            }
        )

    assert database.call("audit-foreign", ENTRY, "search_count", []) == 0
    with pytest.raises(AccessError):
        database.call("audit-foreign", ENTRY, "read", [entry_id], ["message"])


def test_an_entry_outlives_what_it_is_about(database, make_instance, deploy):
    from odoo.exceptions import UserError

    instance = make_instance()
    deploy(instance)
    act(database, instance, "action_delete_from_cluster")

    act(database, instance, "unlink")

    entries = audit(database, instance, "id", "action", "res_name")
    assert [(e["action"], e["res_name"]) for e in entries] == [
        ("deploy", "wiki"),
        ("delete", "wiki"),
    ]
    with pytest.raises(UserError, match="does not exist in Odoo any more"):
        database.call("admin", ENTRY, "action_open_record", [entries[0]["id"]])


# === RETENTION === #


def test_only_what_is_older_than_the_retention_is_purged(database, make_old):
    old, young = make_old(days=31), make_old(days=29)

    with database.transaction() as env:
        env["ir.config_parameter"].sudo().set_param(RETENTION, "30")
        done, remaining = env[ENTRY].sudo()._gc_audit_entries()

    assert (done, remaining) == (1, 0)
    assert ids(database, old, young) == [young]


def test_without_a_retention_everything_is_kept(database, make_old):
    old = make_old(days=10_000)

    with database.transaction() as env:
        env["ir.config_parameter"].sudo().set_param(RETENTION, "0")
        assert env[ENTRY].sudo()._gc_audit_entries() == (0, 0)

    assert ids(database, old) == [old]
    with database.transaction() as env:
        env["ir.config_parameter"].sudo().set_param(RETENTION, "30")
        env[ENTRY].sudo()._gc_audit_entries()


def test_nothing_else_slips_through_behind_the_purge(database, make_old):
    old = make_old(days=31)
    with database.transaction() as env:
        env["ir.config_parameter"].sudo().set_param(RETENTION, "30")

    def purge_and_delete(env):
        assert env[ENTRY].sudo()._gc_audit_entries() == (1, 0)
        add_old(env, days=31)
        env.cr.execute(
            "DELETE FROM vworkspace_audit_entry WHERE date < now() - interval '30 days'"
        )

    assert_refused(database, purge_and_delete)
    assert ids(database, old) == [old]  # all of it was rolled back


def test_a_cut_off_lets_nothing_through_that_is_younger(database, make_old):
    young = make_old(days=29)

    def delete(env):
        env.cr.execute(
            "SELECT set_config('vworkspace.audit_cut_off', %s, true)",
            ["2020-01-01 00:00:00"],
        )
        env.cr.execute("DELETE FROM vworkspace_audit_entry WHERE id = %s", [young])

    assert_refused(database, delete)
    assert ids(database, young) == [young]


# === FIXTURES AND HELPERS === #


@pytest.fixture(scope="module")
def operator_user(database):
    with database.transaction() as env:
        group = env.ref("vworkspace_push.group_operator")
        user = {"name": "audit-operator", "login": "audit-operator"}
        env["res.users"].create({**user, "group_ids": [(6, 0, group.ids)]})


@pytest.fixture
def entry_id(database, make_instance, deploy):
    instance = make_instance()
    deploy(instance)
    return audit(database, instance, "id")[-1]["id"]


@pytest.fixture
def make_old(database, make_instance):
    """Return a function that adds an entry of that age, and returns its id."""
    instance = make_instance()

    def make(*, days):
        with database.transaction() as env:
            add_old(env, days=days, res_id=instance.id)
        return audit(database, instance, "id")[-1]["id"]

    return make


def add_old(env, *, days, res_id=0):
    from odoo import fields

    entry = {
        "date": fields.Datetime.subtract(fields.Datetime.now(), days=days),
        "action": "observe",
        "res_model": INSTANCE,
        "res_id": res_id,
        "company_id": env.company.id,
    }
    env[ENTRY]._add([entry])


def assert_refused(database, function):
    """Assert that the database refuses what `function(env)` does."""
    import psycopg2

    from odoo.tools import mute_logger

    def run():
        with database.transaction() as env:
            function(env)

    refusal = psycopg2.errors.InsufficientPrivilege
    with pytest.raises(refusal, match="added to"), mute_logger("odoo.sql_db"):
        run()


def broken_place(database, control_plane, namespace):
    """Return values to deploy in a cluster at whose address nobody listens."""
    with database.transaction() as env:
        cluster = env["vworkspace.cluster"].create(
            {
                "name": f"Broken {namespace}",
                "cluster_id": f"broken-{namespace}",
                "server_url": control_plane.server,
                "ca_certificate": control_plane.ca_pem,
                "token": control_plane.service_account_token(),
                "namespace_ids": [(0, 0, {"name": namespace})],
            }
        )
        place = cluster.namespace_ids
    activate(database, cluster)
    url = f"https://127.0.0.1:{free_port()}"
    spoil(database, cluster, token=None, server_url=url)
    return {"cluster_id": cluster.id, "namespace_id": place.id}


def entry_digest(database, instance):
    return audit(database, instance, "manifest_digest")[-1]["manifest_digest"]


def ids(database, *wanted):
    with database.transaction() as env:
        return env[ENTRY].search([("id", "in", wanted)], order="id").ids


def superuser_role(database):
    ((name,),) = database.sql("SELECT rolname FROM pg_roles WHERE rolsuper LIMIT 1")
    return name
