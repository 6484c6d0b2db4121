"""Who may do what: by role, by company, by field, and by each public method."""

import inspect
from contextlib import contextmanager

import pytest

MAGIC_FIELDS = ("create_uid", "create_date", "write_uid", "write_date")
ROLES = ("nobody", "viewer", "operator", "approver", "admin")
SUPERUSER = 1
PREFIX = "odoo.addons.vworkspace_push."
INSTANCE = "vworkspace.application.instance"
CLUSTER = "vworkspace.cluster"
CREDENTIAL = "vworkspace.cluster.credential"
CATALOG = "vworkspace.catalog.entry"
TEMPLATE = "vworkspace.operation.template"
OPERATION = "vworkspace.operation"
REVISION = "vworkspace.revision"
AUDIT = "vworkspace.audit.entry"
CAPABILITY = "vworkspace.capability"
LEFT_FIELD = "vworkspace.left.field"

# The least role that may call each public method of ours, on a record of its own
# company. A new public method must be entered here, or the first test below fails.
METHODS = {
    (INSTANCE, "action_adopt"): "operator",
    (INSTANCE, "action_claim"): "admin",
    (INSTANCE, "action_delete_from_cluster"): "operator",
    (INSTANCE, "action_deploy"): "operator",
    (INSTANCE, "action_forget_lost"): "operator",
    (INSTANCE, "action_import_existing"): "operator",
    (INSTANCE, "action_open_adopt"): "operator",
    (INSTANCE, "action_open_audit"): "viewer",
    (INSTANCE, "action_open_conflicts"): "operator",
    (INSTANCE, "action_open_copy"): "operator",
    (INSTANCE, "action_open_delete"): "operator",
    (INSTANCE, "action_open_forget"): "admin",
    (INSTANCE, "action_open_operations"): "viewer",
    (INSTANCE, "action_open_preview"): "operator",
    (INSTANCE, "action_pause"): "operator",
    (INSTANCE, "action_restore_ours"): "operator",
    (INSTANCE, "action_resume"): "operator",
    (INSTANCE, "action_send_again"): "operator",
    (INSTANCE, "action_withdraw"): "operator",
    (INSTANCE, "copy_data"): "viewer",
    (INSTANCE, "create"): "operator",
    (INSTANCE, "default_get"): "nobody",  # defaults are no data
    (INSTANCE, "get_ownership"): "viewer",
    (INSTANCE, "get_timeline"): "viewer",
    (INSTANCE, "unlink"): "operator",
    (INSTANCE, "write"): "operator",
    (CLUSTER, "action_accept_certificate"): "admin",
    (CLUSTER, "action_accept_excess"): "admin",
    (CLUSTER, "action_activate"): "admin",
    (CLUSTER, "action_add_proposed_namespaces"): "admin",
    (CLUSTER, "action_confirm_database"): "admin",
    (CLUSTER, "action_erase_unverified"): "admin",
    (CLUSTER, "action_fetch_certificate"): "admin",
    (CLUSTER, "action_finish_revocation"): "admin",
    (CLUSTER, "action_open_audit"): "viewer",
    (CLUSTER, "action_open_by_health"): "viewer",
    (CLUSTER, "action_open_foreign_instances"): "viewer",
    (CLUSTER, "action_open_foreign_operations"): "viewer",
    (CLUSTER, "action_open_import"): "operator",
    (CLUSTER, "action_open_instances"): "viewer",
    (CLUSTER, "action_open_timeline"): "viewer",
    (CLUSTER, "action_open_unwell_instances"): "viewer",
    (CLUSTER, "action_pause"): "admin",
    (CLUSTER, "action_resume"): "admin",
    (CLUSTER, "action_revoke"): "admin",
    (CLUSTER, "action_test_connection"): "admin",
    (CLUSTER, "action_use_in_cluster"): "admin",
    (CLUSTER, "action_verify"): "admin",
    (CLUSTER, "copy_data"): "admin",  # some of its fields are for admins alone
    (CLUSTER, "create"): "admin",
    (CLUSTER, "default_get"): "nobody",  # defaults are no data
    (CLUSTER, "write"): "admin",
    (CREDENTIAL, "create"): None,  # nobody: our own code alone
    (CREDENTIAL, "default_get"): "nobody",  # defaults are no data
    (CREDENTIAL, "init"): None,
    (CREDENTIAL, "write"): None,
    (CATALOG, "action_deploy_new"): "operator",
    (CATALOG, "action_open_instances"): "viewer",
    (CATALOG, "action_open_other_versions"): "viewer",
    (CATALOG, "copy_data"): "viewer",
    (OPERATION, "action_claim"): "admin",
    (OPERATION, "action_delete_from_cluster"): "operator",
    (OPERATION, "action_deploy"): "operator",
    (OPERATION, "action_forget_lost"): "operator",
    (OPERATION, "action_open_audit"): "viewer",
    (OPERATION, "action_open_delete"): "operator",
    (OPERATION, "action_open_forget"): "admin",
    (OPERATION, "action_pause"): "operator",
    (OPERATION, "action_repeat"): "operator",
    (OPERATION, "action_resume"): "operator",
    (OPERATION, "action_send_again"): "operator",
    (OPERATION, "action_withdraw"): "operator",
    (OPERATION, "copy_data"): "viewer",
    (OPERATION, "create"): "operator",
    (OPERATION, "default_get"): "nobody",  # defaults are no data
    (OPERATION, "get_timeline"): "viewer",
    (OPERATION, "unlink"): "operator",
    (OPERATION, "write"): "operator",
    (REVISION, "action_open"): "viewer",
    (REVISION, "action_roll_back"): "operator",
    (REVISION, "create"): None,
    (REVISION, "default_get"): "nobody",  # defaults are no data
    (REVISION, "write"): None,
    (AUDIT, "action_open_record"): "viewer",
    (AUDIT, "init"): None,
    (CAPABILITY, "write"): "operator",
    (LEFT_FIELD, "action_claim_again"): "operator",
    ("vworkspace.cluster.namespace", "create"): "admin",
    ("vworkspace.cluster.namespace", "write"): "admin",
}

# The least role that may press a dialog's buttons, on a dialog of its own
DIALOG_METHODS = {
    ("vworkspace.preview", "action_decide"): "operator",
    ("vworkspace.preview", "action_deploy"): "operator",
    ("vworkspace.conflict.wizard", "action_apply"): "operator",
    ("vworkspace.conflict.wizard", "action_deploy"): "operator",
    ("vworkspace.delete.wizard", "action_delete"): "operator",
    ("vworkspace.forget.wizard", "action_forget"): "admin",
    ("vworkspace.import.wizard", "action_import"): "operator",
    ("vworkspace.import.wizard", "action_look"): "operator",
    ("vworkspace.import.wizard", "action_select_all"): "operator",
    ("vworkspace.import.wizard", "action_select_none"): "operator",
    ("vworkspace.import.line", "action_back"): "operator",
    ("vworkspace.import.line", "action_show"): "operator",
    ("vworkspace.copy.wizard", "action_copy"): "operator",
    ("vworkspace.adopt.wizard", "action_adopt"): "operator",
}
DIALOG_LINES = {
    *("vworkspace.preview.conflict", "vworkspace.conflict.line"),
    *("vworkspace.import.line", "vworkspace.adopt.line"),
}

# What each model's rows may be read by; nobody: not even an admin.
READABLE_BY = {
    INSTANCE: "viewer",
    CLUSTER: "viewer",
    "vworkspace.cluster.namespace": "viewer",
    CREDENTIAL: "admin",
    "vworkspace.cluster.check": "viewer",
    "vworkspace.watch.lease": "viewer",
    "vworkspace.watch.stream": "viewer",
    "vworkspace.cluster.status": "viewer",
    "vworkspace.transition": "viewer",
    "vworkspace.watch.worker": "viewer",
    CATALOG: "viewer",
    TEMPLATE: "viewer",
    OPERATION: "viewer",
    "vworkspace.condition": "viewer",
    "vworkspace.endpoint": "viewer",
    "vworkspace.field.conflict": "viewer",
    "vworkspace.field.drift": "viewer",
    LEFT_FIELD: "viewer",
    CAPABILITY: "viewer",
    REVISION: "viewer",
    AUDIT: "viewer",
    "vworkspace.delivery.lane": "viewer",
    "vworkspace.delivery.lock": None,
    "vworkspace.timeline": "viewer",
    "vworkspace.health.notice": None,
}

# The cluster's fields that lead to a credential
ADMINS_FIELDS = {
    *("token", "kubeconfig", "client_certificate", "client_key"),
    *("credential_ids", "candidate_id", "active_credential_id"),
    *("verified_credential_id", "key_problem", "proxy_url", "excess_reason"),
}

WRITTEN_BY_PEOPLE = {
    *(INSTANCE, CLUSTER, "vworkspace.cluster.namespace"),
    *(CATALOG, TEMPLATE, OPERATION, CAPABILITY),
}

# The same for all companies
SHARED = {TEMPLATE, "vworkspace.watch.worker"}


# === BY METHOD === #


def test_every_public_method_of_ours_is_entered_here(database):
    assert public_methods(database) == set(METHODS)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("model", "method"), sorted(METHODS))
def test_a_public_method_serves_its_roles_alone(
    database, users, rows, model, method, role
):
    from odoo.exceptions import AccessError, UserError

    arguments = arguments_for(rows, model, method)
    allowed = may(role, METHODS[model, method])

    try:
        with rolled_back(database, role) as env:
            call(env, model, method, *arguments)
        refused = False
    except AccessError:
        refused = True
    except UserError:  # it was let in, and then had an objection of its own
        refused = False

    assert refused is not allowed


@pytest.mark.parametrize("role", ROLES)
def test_private_methods_are_out_of_reach(database, users, rows, role):
    from odoo.exceptions import AccessError

    for model, method in [
        (CLUSTER, "_connection"),
        (CLUSTER, "_activate"),
        (CLUSTER, "_credential_refused"),
        (CLUSTER, "_store_candidate"),
        (CLUSTER, "_writer"),
        (CREDENTIAL, "_open"),
        (CREDENTIAL, "_sealed"),
        (CREDENTIAL, "_store"),
        (CREDENTIAL, "_writer"),
        (INSTANCE, "_writer"),
        (INSTANCE, "_audit"),
        (INSTANCE, "_heal"),
        (INSTANCE, "_intend"),
        (INSTANCE, "_cron_deliver"),
        (AUDIT, "_add"),
        (AUDIT, "_gc_audit_entries"),
    ]:
        with pytest.raises(AccessError), rolled_back(database, role) as env:
            call(env, model, method, rows["own"][model])


# === BY MODEL === #


def test_every_model_of_ours_is_entered_here(database):
    assert set(our_models(database)) == set(READABLE_BY)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("model", READABLE_BY)
def test_a_models_rows_show_to_its_roles_alone(database, users, rows, model, role):
    from odoo.exceptions import AccessError

    own = rows["own"][model]
    if may(role, READABLE_BY[model]):
        with rolled_back(database, role) as env:
            assert call(env, model, "search", [("id", "in", own)]) == own
            assert call(env, model, "read", own)
        return
    for method, *arguments in [
        ("search", [("id", "in", own)]),
        ("search_count", []),
        ("search_read", []),
        ("read", own),
        ("formatted_read_group", [], ["id"], ["__count"]),
    ]:
        with pytest.raises(AccessError), rolled_back(database, role) as env:
            call(env, model, method, *arguments)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("model", sorted(set(READABLE_BY) - WRITTEN_BY_PEOPLE))
def test_what_only_code_writes_cannot_be_written(database, users, rows, model, role):
    from odoo.exceptions import AccessError

    own = rows["own"][model]
    for method, *arguments in [("create", [{}]), ("write", own, {}), ("unlink", own)]:
        with pytest.raises(AccessError), rolled_back(database, role) as env:
            call(env, model, method, *arguments)


@pytest.mark.parametrize("role", ROLES[:-1])
@pytest.mark.parametrize(
    "model", [CLUSTER, "vworkspace.cluster.namespace", CATALOG, TEMPLATE]
)
def test_only_admins_change_what_others_deploy_with(database, users, rows, model, role):
    from odoo.exceptions import AccessError

    own = rows["own"][model]
    for method, *arguments in [
        ("create", [new_values(rows["own"], model)]),
        ("write", own, {"name": "other"}),
        ("unlink", own),
        ("copy", own),
    ]:
        with pytest.raises(AccessError), rolled_back(database, role) as env:
            call(env, model, method, *arguments)


@pytest.mark.parametrize("role", ["viewer", "operator", "approver"])
def test_only_admins_see_that_there_are_credential_fields(database, users, rows, role):
    from odoo.exceptions import AccessError

    own = rows["own"][CLUSTER]
    with rolled_back(database, role) as env:
        fields = call(env, CLUSTER, "fields_get")
    assert not ADMINS_FIELDS & set(fields)
    for field in sorted(ADMINS_FIELDS):
        with pytest.raises(AccessError), rolled_back(database, role) as env:
            call(env, CLUSTER, "read", own, [field])


# === BY COMPANY === #


@pytest.mark.parametrize(
    "model", [m for m, least in READABLE_BY.items() if least and m not in SHARED]
)
def test_another_companys_rows_do_not_exist(database, users, rows, model):
    from odoo.exceptions import AccessError

    foreign = rows["foreign"][model]
    with rolled_back(database, "admin") as env:
        assert call(env, model, "search", [("id", "in", foreign)]) == []
        assert call(env, model, "search_count", [("id", "in", foreign)]) == 0
    with pytest.raises(AccessError), rolled_back(database, "admin") as env:
        call(env, model, "read", foreign)
    with rolled_back(database, "foreign_admin") as env:
        assert call(env, model, "search", [("id", "in", foreign)]) == foreign


@pytest.mark.parametrize(
    ("model", "method"),
    sorted(k for k in METHODS if METHODS[k] not in (None, "nobody")),
)
def test_another_companys_records_cannot_be_acted_on(
    database, users, rows, model, method
):
    from odoo.exceptions import AccessError

    arguments = arguments_for({"own": rows["foreign"]}, model, method)
    with pytest.raises(AccessError), rolled_back(database, "admin") as env:
        call(env, model, method, *arguments)


# === BY FIELD === #


@pytest.mark.parametrize("writer", [None, True, "WRITER", {"WRITER": True}], ids=str)
@pytest.mark.parametrize("model", [INSTANCE, OPERATION, CLUSTER, REVISION])
def test_what_happened_in_the_cluster_cannot_be_written_by_hand(
    database, users, rows, model, writer
):
    from odoo.exceptions import AccessError

    context = {"vworkspace_writer": writer}
    own = rows["own"][model]
    for field in protected_fields(database, model):
        for method, *arguments in [
            ("write", own, {field: "1"}),
            ("web_save", own, {field: "1"}, {}),
            ("create", [{**new_values(rows["own"], model), field: "1"}]),
        ]:
            with pytest.raises(AccessError), rolled_back(database, "admin") as env:
                call(env, model, method, *arguments, context=context)


def test_what_registration_records_is_protected(database):
    recorded = {
        *("state", "state_message", "activated_at", "connection_version"),
        *("presented_certificates", "presented_summary", "proposed_namespaces"),
        *("verification_state", "verification_requested_at", "verified_at"),
        *("verified_credential_id", "verified_rights", "check_ids"),
        *("accepted_excess", "accepted_excess_reason"),
        *("accepted_excess_by", "accepted_excess_at", "credential_ids"),
    }
    assert recorded <= set(protected_fields(database, CLUSTER))
    stored = {
        name
        for name, field in database.registry[CREDENTIAL]._fields.items()
        if field.store and name not in ("id", *MAGIC_FIELDS)
    }
    assert stored == set(protected_fields(database, CREDENTIAL))


@pytest.mark.parametrize("writer", [None, True, "WRITER", {"WRITER": True}], ids=str)
def test_a_credential_cannot_be_forged_in_superuser_mode_either(
    database, users, rows, writer
):
    from odoo.exceptions import AccessError

    for field in protected_fields(database, CREDENTIAL):
        with rolled_back(database, "admin") as env:
            credential_sudo = env[CREDENTIAL].browse(rows["own"][CREDENTIAL]).sudo()
            forger = credential_sudo.with_context(vworkspace_writer=writer)
            with pytest.raises(AccessError):
                forger.write({field: "1"})


FORGED = {
    "state": "active",
    "state_message": "forged",
    "verification_state": "passed",
    "verified_rights": "exactly what is needed",
    "accepted_excess": "forged",
    "accepted_excess_reason": "forged",
    "accepted_excess_by": 2,
    "presented_certificates": "forged",
    "check_state": "ok",
    "server_identity": "forged",
    "connection_version": 7,
}
NEW = {
    **dict.fromkeys(FORGED, False),
    "state": "registering",
    "verification_state": "none",
    "check_state": "none",
    "connection_version": 1,
}


def test_no_default_in_the_context_forges_a_registration(database, users, rows):
    context = {f"default_{field}": value for field, value in FORGED.items()}
    values = {**new_values(rows["own"], CLUSTER), "token": "a-token-of-nobody"}

    with rolled_back(database, "admin") as env:
        (made,) = call(env, CLUSTER, "create", [values], context=context)
        (stored,) = env[CLUSTER].browse(made).read(list(FORGED))
        (credential,) = env[CLUSTER].browse(made).credential_ids
        assert credential.state == "candidate"

    del stored["id"]
    assert stored == NEW


def test_no_default_of_a_user_forges_a_registration(database, users, rows):
    with rolled_back(database, "admin") as env:
        for field, value in FORGED.items():
            call(env, "ir.default", "set", CLUSTER, field, value, True)
        call(env, "ir.default", "set", CREDENTIAL, "state", "active")
        values = {**new_values(rows["own"], CLUSTER), "token": "a-token-of-nobody"}
        (made,) = call(env, CLUSTER, "create", [values])
        (stored,) = env[CLUSTER].browse(made).read(list(FORGED))
        (credential,) = env[CLUSTER].browse(made).credential_ids
        assert credential.state == "candidate"
    database.registry.clear_all_caches()

    del stored["id"]
    assert stored == NEW


def test_an_import_does_not_forge_a_registration(database, users, rows):
    new = new_values(rows["own"], CLUSTER)
    for field, value in [("state", "Active"), ("verification_state", "Passed")]:
        with rolled_back(database, "admin") as env:
            names = ["name", "cluster_id", "server_url", field]
            line = [new["name"], new["cluster_id"], new["server_url"], value]
            answer = call(env, CLUSTER, "load", names, [line])
        assert answer["ids"] is False
        assert "cannot be written by hand" in str(answer["messages"])


def test_a_copy_of_an_active_cluster_begins_at_the_registration(database, users, rows):
    with rolled_back(database, "admin") as env:
        original = env[CLUSTER].browse(rows["own"][CLUSTER])
        original._writer().write({k: FORGED[k] for k in FORGED if k != "check_state"})
        (copied,) = call(env, CLUSTER, "copy", original.ids)
        (stored,) = env[CLUSTER].browse(copied).read(list(FORGED))
        assert not env[CLUSTER].browse(copied).credential_ids

    del stored["id"]
    assert stored == NEW


def test_a_default_in_the_context_does_not_forge_it_either(database, users, rows):
    forged = {
        "uid": "forged",
        "delivery_state": "applied",
        "health": "ready",
        "intent_manifest": "{}",
        "intent_revision": 7,
    }
    context = {f"default_{field}": value for field, value in forged.items()}

    with rolled_back(database, "operator") as env:
        new = new_values(rows["own"], INSTANCE)
        (made,) = call(env, INSTANCE, "create", [new], context=context)
        (stored,) = env[INSTANCE].browse(made).read(list(forged))

    del stored["id"]
    assert stored == {
        "uid": False,
        "delivery_state": "draft",
        "health": False,
        "intent_manifest": False,
        "intent_revision": 0,
    }


def test_a_copy_starts_as_a_draft(database, users, rows):
    with rolled_back(database, "operator") as env:
        (copied,) = call(env, INSTANCE, "copy", rows["own"][INSTANCE])
        copied = env[INSTANCE].browse(copied)
        assert (copied.delivery_state, copied.uid) == ("draft", False)
        original = env[INSTANCE].browse(rows["own"][INSTANCE])
        assert copied.delivery_lock_id != original.delivery_lock_id


def test_a_namespace_of_another_cluster_cannot_be_chosen(database, users, rows):
    from odoo.exceptions import UserError

    with rolled_back(database, "admin") as env:
        other = env[CLUSTER].create(
            {
                "name": "Other",
                "cluster_id": "other",
                "server_url": "https://127.0.0.1:1",
                "namespace_ids": [(0, 0, {"name": "theirs"})],
            }
        )
        values = {
            **new_values(rows["own"], INSTANCE),
            "namespace_id": other.namespace_ids.id,
        }
        with pytest.raises(UserError, match="namespace"):
            call(env, INSTANCE, "create", [values])


# === DIALOGS === #


def test_every_dialog_of_ours_is_entered_here(database):
    models = {name for name in our_dialogs(database)}
    buttons = {
        (model, method)
        for model, method in public_methods(database, models)
        if method not in ("create", "write", "default_get")
    }

    assert models == {model for model, _method in DIALOG_METHODS} | DIALOG_LINES
    assert buttons == set(DIALOG_METHODS)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("model", "method"), sorted(DIALOG_METHODS))
def test_a_dialog_serves_its_roles_alone(database, users, rows, model, method, role):
    from odoo.exceptions import AccessError, UserError

    allowed = may(role, DIALOG_METHODS[model, method])

    try:
        with rolled_back(database, role) as env:
            call(env, model, method, make_dialog(env, model, rows["own"]).ids)
        refused = False
    except AccessError:
        refused = True
    except UserError:  # it was let in, and then had an objection of its own
        refused = False

    assert refused is not allowed


@pytest.mark.parametrize(("model", "method"), sorted(DIALOG_METHODS))
def test_a_dialog_about_another_companys_records_does_nothing(
    database, users, rows, model, method
):
    from odoo.exceptions import AccessError

    with pytest.raises(AccessError), rolled_back(database, "admin") as env:
        call(env, model, method, make_dialog(env, model, rows["foreign"]).ids)


@pytest.mark.parametrize("model", sorted({model for model, _ in DIALOG_METHODS}))
def test_a_dialog_is_its_users_own_and_made_by_our_code_alone(
    database, users, rows, model
):
    from odoo.exceptions import AccessError

    with rolled_back(database, "admin") as env:
        dialog = make_dialog(env, model, rows["own"])
        assert call(env, model, "search", [("id", "in", dialog.ids)]) == dialog.ids
        others = dialog.with_user(env.ref("base.user_root").copy({"login": "other"}))
        others.env.user.group_ids = env.ref("vworkspace_push.group_admin")
        assert not others.search([("id", "in", dialog.ids)])
        with pytest.raises(AccessError):
            others.read(["display_name"])
        with pytest.raises(AccessError):
            call(env, model, "create", [{}])


# === FIXTURES === #


@pytest.fixture(scope="module")
def users(database):
    """A user for each role, and an administrator of another company."""
    with database.transaction() as env:
        # As the system, since its creator becomes a member of a new company.
        companies = env["res.company"].with_user(SUPERUSER)
        company = companies.create({"name": "Another Company"})
        for login in (*ROLES[:-1], "foreign_admin"):
            group = {
                "nobody": "base.group_user",
                "foreign_admin": "vworkspace_push.group_admin",
            }.get(login, f"vworkspace_push.group_{login}")
            foreign = {"company_id": company.id, "company_ids": [(6, 0, company.ids)]}
            env["res.users"].create(
                {
                    "name": login,
                    "login": login,
                    "group_ids": [(6, 0, [env.ref(group).id])],
                    **(foreign if login == "foreign_admin" else {}),
                }
            )


@pytest.fixture(scope="module")
def rows(database, users):
    """The ids of one row of each model, of our company and of another one."""
    return {
        "own": make_rows(database, "admin", "own"),
        "foreign": make_rows(database, "foreign_admin", "foreign"),
    }


def make_rows(database, login, name):
    with database.transaction(login) as env:
        cluster = env[CLUSTER].create(
            {
                "name": name,
                "cluster_id": name,
                "server_url": "https://127.0.0.1:1",
                "token": f"token-of-{name}",
                "namespace_ids": [(0, 0, {"name": name})],
            }
        )
        of_both = {
            "cluster_id": cluster.id,
            "namespace_id": cluster.namespace_ids.id,
            "catalog_id": "wiki",
            "chart_url": "oci://registry.example.com/charts",
            "chart_name": "wiki",
            "chart_version": "1.4.2",
        }
        instance, target = env[INSTANCE].create(
            [{"name": name, **of_both}, {"name": f"{name}-target", **of_both}]
        )
        of_instance = {"instance_id": instance.id}
        operation = {"target_id": target.id, "type": "Backup", "engine": "velero"}
        catalog = {"name": name, "catalog_id": name}
        made = {
            INSTANCE: instance,
            CLUSTER: cluster,
            "vworkspace.cluster.namespace": cluster.namespace_ids,
            CREDENTIAL: cluster.credential_ids,
            "res.company": cluster.company_id,
            "vworkspace.delivery.lock": instance.sudo().delivery_lock_id,
            CATALOG: env[CATALOG].create(
                {**catalog, "company_id": cluster.company_id.id}
            ),
            TEMPLATE: env.ref("vworkspace_push.operation_template_backup_velero"),
            OPERATION: env[OPERATION].create(operation),
            REVISION: env[REVISION]
            ._writer()
            .create(
                {
                    "res_model": INSTANCE,
                    "res_id": instance.id,
                    "company_id": cluster.company_id.id,
                    "number": 7,
                    "kind": "deploy",
                }
            ),
        }
        instance._audit("pause")
        made[AUDIT] = env[AUDIT].search([("res_id", "=", instance.id)])
        made["vworkspace.timeline"] = env["vworkspace.timeline"].search(
            [("res_model", "=", INSTANCE), ("res_id", "=", instance.id)]
        )
        for model, values in {
            "vworkspace.watch.lease": {"cluster_id": cluster.id},
            "vworkspace.watch.stream": {"cluster_id": cluster.id, "kind": "Cluster"},
            "vworkspace.cluster.status": {"cluster_id": cluster.id},
            "vworkspace.transition": {
                **of_instance,
                "cluster_id": cluster.id,
                "type": "Ready",
                "at": "2026-05-28 10:00:00",
            },
            "vworkspace.health.notice": {"res_model": INSTANCE, "res_id": instance.id},
            "vworkspace.watch.worker": {"holder": f"worker of {name}"},
            "vworkspace.cluster.check": {
                "cluster_id": cluster.id,
                "key": "reach",
                "title": "Reachability",
                "state": "ok",
            },
            "vworkspace.condition": {**of_instance, "type": "Ready", "status": "True"},
            "vworkspace.endpoint": {**of_instance, "name": "web"},
            "vworkspace.field.conflict": {**of_instance, "field": ".spec"},
            "vworkspace.field.drift": {**of_instance, "field": ".spec"},
            LEFT_FIELD: {**of_instance, "field": ".spec.chart"},
            CAPABILITY: {**of_instance, "capability": "backup", "engine": "velero"},
            "vworkspace.delivery.lane": {"cluster_id": cluster.id},
        }.items():
            made[model] = env[model].sudo().create(values)
        return {model: record.ids for model, record in made.items()}


# === HELPERS === #


class _RollBack(Exception):
    pass


@contextmanager
def rolled_back(database, login):
    """Yield an environment of that user whose transaction leaves nothing behind."""
    try:
        with database.transaction(login) as env:
            yield env
            env.flush_all()
            raise _RollBack
    except _RollBack:
        pass


def call(env, model, method, *arguments, **keywords):
    from odoo.service.model import call_kw

    return call_kw(env[model], method, arguments, keywords)


def may(role, least):
    return least is not None and ROLES.index(role) >= ROLES.index(least)


def our_models(database):
    return [
        name
        for name, model in database.registry.items()
        if model._original_module == "vworkspace_push"
        and not (model._abstract or model._transient)
    ]


def our_dialogs(database):
    return [
        name
        for name, model in database.registry.items()
        if model._original_module == "vworkspace_push" and model._transient
    ]


def make_dialog(env, model, rows):
    """Open a dialog about the records of `rows`, as our code does for a user."""
    values = {
        "instance_id": rows[INSTANCE][0],
        "instance_ids": rows[INSTANCE],
        "cluster_id": rows[CLUSTER][0],
    }
    fields = env[model]._fields
    if "wizard_id" in fields:
        owner = make_dialog(env, fields["wizard_id"].comodel_name, rows)
        values["wizard_id"] = owner.id
    return env[model]._make({n: v for n, v in values.items() if n in fields})


def public_methods(database, models=None):
    """Return (model, method) for all that code of ours defines and RPC can name."""
    found = set()
    for name in our_models(database) if models is None else models:
        for definition in database.registry[name].__mro__:
            if definition.__module__.startswith(PREFIX):
                found |= {
                    (name, method)
                    for method, member in vars(definition).items()
                    if inspect.isfunction(member) and not method.startswith("_")
                }
    return found


def protected_fields(database, model):
    return sorted(database.registry[model]._protected_fields)


def new_values(rows, model):
    """Return what to create a record with, in the company of `rows`."""
    if model == CLUSTER:
        return {
            "name": "new",
            "cluster_id": "new",
            "server_url": "https://127.0.0.1:1",
            "company_id": rows["res.company"][0],
        }
    if model == INSTANCE:
        return {
            "name": "new",
            "cluster_id": rows[CLUSTER][0],
            "namespace_id": rows["vworkspace.cluster.namespace"][0],
            "catalog_id": "wiki",
            "chart_url": "oci://registry.example.com/charts",
            "chart_name": "wiki",
            "chart_version": "1.4.2",
        }
    if model == OPERATION:
        return {
            "name": "new",
            "target_id": rows[INSTANCE][0],
            "type": "Backup",
            "engine": "velero",
        }
    if model == CATALOG:
        return {
            "name": "new",
            "catalog_id": "new",
            "company_id": rows["res.company"][0],
        }
    if model == TEMPLATE:
        return {"name": "new", "type": "Backup", "engine": "velero"}
    return {"name": "new", "cluster_id": rows[CLUSTER][0]}


def arguments_for(rows, model, method):
    own = rows["own"][model]
    match method:
        case "create":
            return ([new_values(rows["own"], model)],)
        case "write" if model == CREDENTIAL:
            return (own, {"summary": "changed"})
        case "write" if model == CAPABILITY:
            return (own, {"engine": "changed"})
        case "write":
            return (own, {"name": "changed"})
        case "default_get":
            return (["name"],)
        case "action_open_by_health":
            return (own, "failed")
    return (own,)
