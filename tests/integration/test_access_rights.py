"""Who may do what: by role, by company, by field, and by each public method."""

import inspect
from contextlib import contextmanager

import pytest

ROLES = ("nobody", "viewer", "operator", "admin")
SUPERUSER = 1
PREFIX = "odoo.addons.vworkspace_push."
INSTANCE = "vworkspace.application.instance"
CLUSTER = "vworkspace.cluster"

# The least role that may call each public method of ours, on a record of its own
# company. A new public method must be entered here, or the first test below fails.
METHODS = {
    (INSTANCE, "action_delete_from_cluster"): "operator",
    (INSTANCE, "action_deploy"): "operator",
    (INSTANCE, "action_forget_lost"): "operator",
    (INSTANCE, "copy_data"): "viewer",
    (INSTANCE, "create"): "operator",
    (INSTANCE, "default_get"): "nobody",  # defaults are no data
    (INSTANCE, "unlink"): "operator",
    (INSTANCE, "write"): "operator",
    (CLUSTER, "action_open_instances"): "viewer",
    (CLUSTER, "action_open_unwell_instances"): "viewer",
    (CLUSTER, "action_test_connection"): "admin",
    (CLUSTER, "copy_data"): "viewer",
    (CLUSTER, "write"): "admin",
    ("vworkspace.cluster.credential", "init"): None,  # nobody: it is private
    ("vworkspace.cluster.namespace", "create"): "admin",
    ("vworkspace.cluster.namespace", "write"): "admin",
}

# What each model's rows may be read by; nobody: not even an admin.
READABLE_BY = {
    INSTANCE: "viewer",
    CLUSTER: "viewer",
    "vworkspace.cluster.namespace": "viewer",
    "vworkspace.cluster.credential": "admin",
    "vworkspace.watch.lease": "viewer",
    "vworkspace.condition": "viewer",
    "vworkspace.endpoint": "viewer",
    "vworkspace.field.conflict": "viewer",
    "vworkspace.delivery.lock": None,
}

WRITTEN_BY_PEOPLE = {INSTANCE, CLUSTER, "vworkspace.cluster.namespace"}


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
        (CLUSTER, "_store_token"),
        ("vworkspace.cluster.credential", "_unseal"),
        (INSTANCE, "_writer"),
        (INSTANCE, "_cron_deliver"),
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


@pytest.mark.parametrize("role", ROLES[:3])
@pytest.mark.parametrize("model", [CLUSTER, "vworkspace.cluster.namespace"])
def test_only_admins_change_clusters(database, users, rows, model, role):
    from odoo.exceptions import AccessError

    own = rows["own"][model]
    for method, *arguments in [
        ("create", [{"name": "new", "cluster_id": rows["own"][CLUSTER][0]}]),
        ("write", own, {"name": "other"}),
        ("unlink", own),
        ("copy", own),
    ]:
        with pytest.raises(AccessError), rolled_back(database, role) as env:
            call(env, model, method, *arguments)


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_only_admins_see_that_there_is_a_token_field(database, users, rows, role):
    from odoo.exceptions import AccessError

    own = rows["own"][CLUSTER]
    with rolled_back(database, role) as env:
        fields = call(env, CLUSTER, "fields_get")
    assert not {"token", "credential_ids", "key_problem"} & set(fields)
    for field in ("token", "credential_ids"):
        with pytest.raises(AccessError), rolled_back(database, role) as env:
            call(env, CLUSTER, "read", own, [field])


# === BY COMPANY === #


@pytest.mark.parametrize("model", [m for m, least in READABLE_BY.items() if least])
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
def test_what_happened_in_the_cluster_cannot_be_written_by_hand(
    database, users, rows, writer
):
    from odoo.exceptions import AccessError

    context = {"vworkspace_writer": writer}
    own = rows["own"][INSTANCE]
    for field in protected_fields(database):
        for method, *arguments in [
            ("write", own, {field: "1"}),
            ("web_save", own, {field: "1"}, {}),
            ("create", [{**new_instance(rows), field: "1"}]),
        ]:
            with pytest.raises(AccessError), rolled_back(database, "admin") as env:
                call(env, INSTANCE, method, *arguments, context=context)


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
        (made,) = call(env, INSTANCE, "create", [new_instance(rows)], context=context)
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
        values = {**new_instance(rows), "namespace_id": other.namespace_ids.id}
        with pytest.raises(UserError, match="namespace"):
            call(env, INSTANCE, "create", [values])


# === FIXTURES === #


@pytest.fixture(scope="module")
def users(database):
    """A user for each role, and an administrator of another company."""
    with database.transaction() as env:
        # As the system, since its creator becomes a member of a new company.
        companies = env["res.company"].with_user(SUPERUSER)
        company = companies.create({"name": "Another Company"})
        for login in (*ROLES[:3], "foreign_admin"):
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
        instance = env[INSTANCE].create(
            {
                "name": name,
                "cluster_id": cluster.id,
                "namespace_id": cluster.namespace_ids.id,
                "catalog_id": "wiki",
                "chart_url": "oci://registry.example.com/charts",
                "chart_name": "wiki",
                "chart_version": "1.4.2",
            }
        )
        of_instance = {"instance_id": instance.id}
        made = {
            INSTANCE: instance,
            CLUSTER: cluster,
            "vworkspace.cluster.namespace": cluster.namespace_ids,
            "vworkspace.cluster.credential": cluster.credential_ids,
            "vworkspace.delivery.lock": instance.sudo().delivery_lock_id,
        }
        for model, values in {
            "vworkspace.watch.lease": {"cluster_id": cluster.id},
            "vworkspace.condition": {**of_instance, "type": "Ready", "status": "True"},
            "vworkspace.endpoint": {**of_instance, "name": "web"},
            "vworkspace.field.conflict": {**of_instance, "field": ".spec"},
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
        if model._original_module == "vworkspace_push" and not model._abstract
    ]


def public_methods(database):
    """Return (model, method) for all that code of ours defines and RPC can name."""
    found = set()
    for name in our_models(database):
        for definition in database.registry[name].__mro__:
            if definition.__module__.startswith(PREFIX):
                found |= {
                    (name, method)
                    for method, member in vars(definition).items()
                    if inspect.isfunction(member) and not method.startswith("_")
                }
    return found


def protected_fields(database):
    return sorted(database.registry[INSTANCE]._protected_fields)


def new_instance(rows):
    return {
        "name": "new",
        "cluster_id": rows["own"][CLUSTER][0],
        "namespace_id": rows["own"]["vworkspace.cluster.namespace"][0],
        "catalog_id": "wiki",
        "chart_url": "oci://registry.example.com/charts",
        "chart_name": "wiki",
        "chart_version": "1.4.2",
    }


def arguments_for(rows, model, method):
    own = rows["own"][model]
    match method:
        case "create" if model == INSTANCE:
            return ([new_instance(rows)],)
        case "create":
            return ([{"name": "new", "cluster_id": rows["own"][CLUSTER][0]}],)
        case "write":
            return (own, {"name": "changed"})
        case "default_get":
            return (["name"],)
    return (own,)
