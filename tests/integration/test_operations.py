"""Operations: delivered once, never changed after that, and watched to their end."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.deliveries import as_other_database, audit
from tests.dialogs import open_dialog
from tests.live_objects import condition
from tests.waiting import wait_until

OPERATION = "vworkspace.operation"
TEMPLATE = "vworkspace.operation.template"
COLLECTION = "/apis/ops.vworkspace.io/v1alpha1/namespaces/{}/operations"

TEMPLATES = {
    "backup.velero": ("Backup", "velero", "backup", False),
    "restore.velero": ("Restore", "velero", "restore", True),
    "upgrade.helm": ("Upgrade", "helm", "upgrade", False),
    "migration.helmHookJob": ("Migration", "helmHookJob", "migration", False),
    "runCommand.job": ("RunCommand", "job", "runcommand", False),
    "runbook.workflow": ("Runbook", "workflow", "runbook", False),
}
COMPLETE = {
    "backup.velero": "retention: 30d\nsnapshotClassName: fast\nstorageLocation: a\n",
    "restore.velero": "backupName: b\nnamespaceMapping: {a: b}\nrestorePVs: true\n",
    "upgrade.helm": "targetVersion: 1.5.0\nvaluesPatch: {replicas: 2}\n",
    "migration.helmHookJob": "hookName: migrate\nimage: wiki:1\n",
    "runCommand.job": "image: a\ncommand: [ls]\nargs: [-l]\nactiveDeadlineSeconds: 1\n",
    "runbook.workflow": "template: rotate\n",
}


# === DELIVERY === #


def test_an_operation_reaches_the_cluster_as_it_is_described(
    database, make_operation, deploy, control_plane, namespace
):
    operation = make_operation(parameters_yaml="retention: 30d\n")

    deploy(operation)

    assert database.read(operation, "delivery_state") == "applied"
    live = live_operation(control_plane, namespace)
    assert live["metadata"]["labels"] == {
        "app.vworkspace.io/managed-by": "control-plane",
        "app.vworkspace.io/cluster-id": "test-cluster",
        "app.vworkspace.io/application-instance": "wiki",
    }
    assert live["spec"] == {
        "targetRef": {
            "apiVersion": "apps.vworkspace.io/v1alpha1",
            "kind": "ApplicationInstance",
            "name": "wiki",
        },
        "type": "Backup",
        "engine": "velero",
        "parameters": {"retention": "30d"},
    }


def test_a_second_start_sends_nothing_new(
    database, make_operation, deploy, control_plane, namespace
):
    operation = make_operation()
    deploy(operation)
    before = live_operation(control_plane, namespace)

    deploy(operation)

    assert live_operation(control_plane, namespace) == before
    assert database.read(operation, "intent_revision") == 1


def test_what_an_operation_does_is_fixed_from_its_first_delivery_on(
    database, make_operation, deploy
):
    from odoo.exceptions import UserError

    operation = make_operation()
    deploy(operation)

    for field, value in [
        ("name", "another"),
        ("parameters_yaml", "retention: 1d\n"),
        ("engine", "volsync"),
        ("template_id", False),
        ("approval_required", True),
    ]:
        with pytest.raises(UserError, match="cannot change"):
            database.call("admin", OPERATION, "write", operation.ids, {field: value})


def test_what_the_cluster_denied_can_be_corrected(
    database, make_operation, deploy, control_plane, namespace
):
    operation = make_operation()
    take_rights_away(control_plane, namespace)
    deploy(operation)
    denied = database.read(operation, "delivery_state")
    values = {"parameters_yaml": "retention: 1d\n"}

    database.call("admin", OPERATION, "write", operation.ids, values)
    control_plane.grant([namespace])
    deploy(operation)

    assert denied == "denied"
    assert database.read(operation, "delivery_state") == "applied"
    manifest = json.loads(database.read(operation, "intent_manifest"))
    assert manifest["spec"]["parameters"] == {"retention": "1d"}


def test_what_is_corrected_does_not_run_as_it_was(
    database, make_operation, deploy, control_plane, namespace
):
    operation = make_operation()
    take_rights_away(control_plane, namespace)
    deploy(operation)
    values = {"parameters_yaml": "retention: 1d\n"}

    database.call("admin", OPERATION, "write", operation.ids, values)
    control_plane.grant([namespace])
    database.run_cron("ir_cron_deliver")

    stored = database.read(operation, "delivery_state", "next_attempt_at")
    assert (stored["delivery_state"], stored["next_attempt_at"]) == ("draft", False)
    assert list_operations(control_plane, namespace) == []


def test_what_may_have_begun_cannot_be_corrected(
    database, make_operation, deploy, lose_answers, control_plane, namespace
):
    from odoo.exceptions import UserError

    operation = make_operation()
    with lose_answers():
        deploy(operation)
    assert database.read(operation, "delivery_state") == "failed"

    for values in ({"name": "backup-2"}, {"parameters_yaml": "retention: 1d\n"}):
        with pytest.raises(UserError, match="may have reached its cluster"):
            database.call("admin", OPERATION, "write", operation.ids, values)
    assert database.read(operation, "is_editable") is False
    deploy(operation)

    assert database.read(operation, "delivery_state") == "applied"
    (live,) = list_operations(control_plane, namespace)
    assert live["metadata"]["name"] == "backup-1"


def test_an_operation_of_a_production_cluster_is_deleted_by_its_name(
    database, cluster, make_operation, deploy, control_plane, namespace
):
    from odoo.exceptions import UserError

    operation = make_operation()
    deploy(operation)
    database.call("admin", cluster._name, "write", cluster.ids, {"is_production": True})
    try:
        dialog = open_dialog(database, operation, "action_open_delete")
        assert dialog.read("production") == "Test"
        with pytest.raises(UserError, match="type the name backup-1"):
            dialog.press("action_delete")
        dialog.fill(typed_name="backup-1")
        dialog.press("action_delete")
    finally:
        values = {"is_production": False}
        database.call("admin", cluster._name, "write", cluster.ids, values)

    assert database.read(operation, "delivery_state") == "deleted"
    assert list_operations(control_plane, namespace) == []


def test_an_operation_is_forgotten_with_a_report(
    database, make_operation, deploy, lose_answers, namespace
):
    operation = make_operation()
    with lose_answers():
        deploy(operation)

    dialog = open_dialog(database, operation, "action_open_forget")
    report = dialog.read("report")
    dialog.fill(reason="The cluster was taken down.")
    dialog.press("action_forget")

    assert "Object: Operation backup-1" in report
    assert database.read(operation, "delivery_state") == "deleted"
    entries = audit(database, operation, "action", "message")
    assert {"action": "forget", "message": report} in entries


def test_an_operation_that_another_odoo_wrote_is_counted_and_claimed(
    database, cluster, make_operation, deploy, control_plane, namespace
):
    from odoo.addons.vworkspace_push.status import sink

    operation = make_operation()
    deploy(operation)
    manifest = as_other_database(database, operation)
    control_plane.kubectl(
        *("apply", "--server-side", "--field-manager", "vworkspace-odoo", "-f", "-"),
        input=json.dumps(manifest),
    )
    live = live_operation(control_plane, namespace)
    with database.transaction() as env:
        sink.ingest(env, cluster.id, [sink.Report.from_object(live)])
    counted = database.read(cluster, "foreign_count")

    database.call("admin", OPERATION, "action_claim", operation.ids)

    assert counted == 1
    assert database.read(cluster, "foreign_count") == 0
    assert database.read(operation, "delivery_state") == "applied"
    annotations = live_operation(control_plane, namespace)["metadata"]["annotations"]
    assert annotations["push.vworkspace.io/database"] != "another-database"


def test_an_operation_that_is_paused_waits_and_is_counted(
    database, cluster, make_operation, deploy, control_plane, namespace
):
    operation = make_operation()
    before = database.read(cluster, "waiting_count")
    database.call("admin", OPERATION, "action_pause", operation.ids)
    deploy(operation)

    assert database.read(cluster, "waiting_count") == before + 1
    assert "paused" in database.read(operation, "waiting_for")
    assert list_operations(control_plane, namespace) == []
    database.call("admin", OPERATION, "action_resume", operation.ids)

    assert database.read(operation, "delivery_state") == "applied"


def test_an_operation_cannot_be_rolled_back(database, make_operation, deploy):
    from odoo.exceptions import UserError

    operation = make_operation()
    deploy(operation)
    revision = database.read(operation, "revision_id")[0]

    with pytest.raises(UserError, match="runs once"):
        database.call("admin", "vworkspace.revision", "action_roll_back", [revision])


def test_what_was_in_the_cluster_is_not_created_there_again(
    database, make_operation, deploy
):
    from odoo.exceptions import UserError

    operation = make_operation()
    deploy(operation)
    database.call("admin", OPERATION, "action_delete_from_cluster", operation.ids)
    assert database.read(operation, "delivery_state") == "deleted"

    with pytest.raises(UserError, match="Repeat"):
        deploy(operation)


def test_an_operation_that_began_and_vanished_is_not_started_over(
    database, make_operation, deploy, control_plane, namespace
):
    from odoo.exceptions import UserError

    operation = make_operation()
    deploy(operation)
    report(database, operation, control_plane, namespace, {"phase": "Running"})
    vanish(database, operation, control_plane, namespace)
    database.call("admin", OPERATION, "action_forget_lost", operation.ids)

    with pytest.raises(UserError, match="Repeat"):
        deploy(operation)

    assert database.read(operation, "phase") == "Running"


def test_repeating_makes_a_draft_of_the_same_with_a_name_of_its_own(
    database, make_operation, deploy
):
    operation = make_operation(parameters_yaml="retention: 30d\n")
    deploy(operation)

    action = database.call("admin", OPERATION, "action_repeat", operation.ids)

    with database.transaction() as env:
        repeated = env[action["res_model"]].browse(action["res_id"])
        assert repeated.delivery_state == "draft"
        assert repeated.parameters_yaml == "retention: 30d\n"
        assert repeated.name != "backup-1"
        assert repeated.uid is False
        assert repeated.intent_revision == 0


# === NAME AND PLACE === #


def test_a_name_says_what_is_done_to_what_and_fits_a_label(
    database, make_operation, target
):
    with database.transaction() as env:
        long = env[target._name].browse(target.ids).copy({"name": f"a.{'b' * 70}"})
    for of, begin in [(target, "backup-wiki-20"), (long, "backup-a-bbbb")]:
        operation = make_operation(name=None, target_id=of.id)

        name = database.read(operation, "name")

        assert name.startswith(begin)
        assert len(name) <= 63
        assert name[-14:].isdigit()


def test_an_operation_is_where_its_application_is(
    database, make_operation, target, cluster
):
    from odoo.exceptions import UserError

    operation = make_operation()
    place = database.read(target, "cluster_id", "namespace_id")
    assert database.read(operation, "cluster_id", "namespace_id") == {
        **place,
        "id": operation.id,
    }

    with database.transaction() as env:
        other = env["vworkspace.cluster.namespace"].create(
            {"cluster_id": cluster.id, "name": "elsewhere"}
        )
    with pytest.raises(UserError, match="namespace of its application"):
        make_operation(name="misplaced", namespace_id=other.id)


# === CHECKS === #


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_templates_are_those_of_the_contract(database, name):
    type_, engine, capability, needs_approval = TEMPLATES[name]
    from odoo.addons.vworkspace_push.kube.values import parse_values

    with database.transaction() as env:
        template = env[TEMPLATE].search([("name", "=", name)])

        assert (template.type, template.engine) == (type_, engine)
        assert template.capability == capability
        assert template.needs_approval is needs_approval
        parameters = parse_values(COMPLETE[name])
        assert template._parameter_problems(parameters) == []
        assert set(template._schema()["properties"]) == set(parameters)
        assert template._parameter_problems({"other": 1})[-1].startswith("other: ")


@pytest.mark.parametrize(
    ("template", "parameters", "sentence"),
    [
        (
            "backup.velero",
            "retention: 30\n",
            "retention: it must be of the type s",
        ),
        ("backup.velero", "keep: 30d\n", "keep: backup.velero has no such parameter"),
        ("runCommand.job", "args: [ls]\n", "image: it is missing"),
        ("runCommand.job", "image: a\nargs: [1]\n", "args[0]: it must be of the type"),
        ("runCommand.job", "image: ''\n", "image: "),
        (
            "runCommand.job",
            "image: a\nactiveDeadlineSeconds: 0\n",
            "Seconds: 0 is",
        ),
        ("restore.velero", "backupName: b\nnamespaceMapping: {a: 1}\n", "Mapping.a: "),
        ("backup.velero", "retention: [1\n", "not valid YAML"),
        ("upgrade.helm", "valuesPatch: {password: hunter2}\n", "valuesPatch.password"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_by_name(
    database, make_operation, deploy, template, parameters, sentence
):
    from odoo.exceptions import UserError

    operation = make_operation(template=template, parameters_yaml=parameters)

    with pytest.raises(UserError) as refusal:
        deploy(operation)

    assert sentence in str(refusal.value)
    assert database.read(operation, "problems") in str(refusal.value)
    assert database.read(operation, "delivery_state") == "draft"


def test_a_schema_never_makes_odoo_fetch_anything(
    database, operation_template, web_server
):
    reference = {"$ref": f"http://127.0.0.1:{web_server.server_port}/schema"}
    schema = {"type": "object", "properties": {"a": reference}}

    with database.transaction() as env:
        template = env[TEMPLATE].browse(operation_template.ids)
        template.parameters_schema = json.dumps(schema)
        (problem,) = template._parameter_problems({"a": 1})

    assert "refers to what is not in it" in problem
    assert web_server.requested == []


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        ("{", "not valid JSON"),
        ('{"type": "objekt"}', "not a JSON Schema"),
        ('{"type": "array"}', "must describe an object"),
        ("true", "must describe an object"),
    ],
)
def test_a_template_needs_a_schema_of_an_object(
    database, operation_template, schema, sentence
):
    from odoo.exceptions import ValidationError

    values = {"parameters_schema": schema}
    with pytest.raises(ValidationError, match=sentence):
        database.call("admin", TEMPLATE, "write", operation_template.ids, values)


def test_an_application_that_is_not_in_its_cluster_takes_no_operations(
    database, make_instance, make_operation
):
    draft = make_instance("draft", capability_ids=ALL_CAPABILITIES)

    operation = make_operation(target_id=draft.id)

    assert "deploy it first" in database.read(operation, "problems")


def test_a_capability_counts_once_it_is_deployed(
    database, make_instance, make_operation, deploy
):
    plain = make_instance("plain")
    deploy(plain)
    operation = make_operation(target_id=plain.id)
    lacking = database.read(operation, "problems")

    values = {"capability_ids": ALL_CAPABILITIES}
    database.call("admin", plain._name, "write", plain.ids, values)
    still_lacking = database.read(operation, "problems")
    deploy(plain)

    assert "capability backup with the engine velero" in lacking
    assert still_lacking == lacking
    assert database.read(operation, "problems") is False


# === APPROVAL === #


def test_an_approval_that_a_template_asks_for_cannot_be_done_without(
    database, make_operation, deploy, control_plane, namespace
):
    restore = {"template": "restore.velero", "parameters_yaml": "backupName: b\n"}
    operation = make_operation(**restore)
    waived = make_operation(**restore, name="waived", approval_required=False)
    bare = {"template": None, "type": "Restore", "engine": "velero"}
    without_template = make_operation(
        **bare, name="bare", approval_required=False, parameters_yaml=False
    )

    deploy(operation)

    live = live_operation(control_plane, namespace)
    assert live["spec"]["approvals"] == {"required": True}
    assert "cannot be switched off" in database.read(waived, "problems")
    assert "cannot be switched off" in database.read(without_template, "problems")


def test_a_catalog_entry_asks_for_approval_of_its_applications(
    database, target, make_operation
):
    with database.transaction() as env:
        template = env[TEMPLATE].search([("name", "=", "backup.velero")])
        entry = env["vworkspace.catalog.entry"].create(
            {
                "name": "Guarded",
                "catalog_id": "guarded",
                "approval_template_ids": [(6, 0, template.ids)],
            }
        )
        env[target._name].browse(target.ids).catalog_entry_id = entry

    backup = make_operation()
    upgrade = make_operation(name="upgrade-1", template="upgrade.helm")

    assert database.read(backup, "approval_required") is True
    assert database.read(upgrade, "approval_required") is False


# === STATUS === #


def test_what_the_cluster_reports_is_shown(
    database, make_operation, deploy, control_plane, namespace
):
    operation = make_operation()
    deploy(operation)
    status = {
        "phase": "Succeeded",
        "startedAt": "2026-05-28T10:00:00Z",
        "finishedAt": "2026-05-28T10:05:00Z",
        "conditions": [condition("Succeeded", "True")],
        "outputs": {"backupName": "wiki-1", "bytes": "12"},
        "logsRef": {"url": "https://logs.example.com/1"},
    }

    report(database, operation, control_plane, namespace, status)

    stored = database.read(
        *(operation, "phase", "health", "outputs", "logs_url", "waiting_for"),
        *("started_at", "finished_at", "condition_ids"),
    )
    assert (stored["phase"], stored["health"]) == ("Succeeded", "ready")
    assert stored["outputs"] == "backupName: wiki-1\nbytes: 12"
    assert stored["logs_url"] == "https://logs.example.com/1"
    assert stored["waiting_for"] is False
    assert str(stored["finished_at"]) == "2026-05-28 10:05:00"
    assert len(stored["condition_ids"]) == 1


def test_a_blocked_operation_says_what_it_waits_for(
    database, make_operation, deploy, control_plane, namespace
):
    operation = make_operation()
    deploy(operation)
    begun = database.read(operation, "waiting_for")
    why = "An upgrade of wiki is in flight."
    status = {
        "phase": "Pending",
        "conditions": [
            condition("Blocked", "True", reason="ConflictingOperation", message=why)
        ],
    }

    report(database, operation, control_plane, namespace, status)

    assert "to begin it" in begun
    stored = database.read(operation, "health", "waiting_for")
    assert stored["health"] == "blocked"
    assert why in stored["waiting_for"]


def test_where_the_cluster_keeps_the_logs_is_shown(
    database, make_operation, deploy, control_plane, namespace
):
    operation = make_operation()
    deploy(operation)
    logs = {"kind": "Job", "namespace": namespace, "name": "backup-1"}

    report(database, operation, control_plane, namespace, {"logsRef": logs})

    stored = database.read(operation, "logs_ref", "logs_url")
    assert stored["logs_ref"] == f"Job {namespace}/backup-1"
    assert stored["logs_url"] is False


def test_how_an_operation_ended_outlives_its_object(
    database, make_operation, deploy, control_plane, namespace
):
    operation = make_operation()
    deploy(operation)
    status = {
        "phase": "Failed",
        "conditions": [condition("Failed", "True", message="No space left.")],
        "outputs": {"backupName": "wiki-1"},
    }
    report(database, operation, control_plane, namespace, status)

    vanish(database, operation, control_plane, namespace)

    stored = database.read(
        operation, "delivery_state", "phase", "outputs", "condition_ids"
    )
    assert (stored["delivery_state"], stored["phase"]) == ("lost", "Failed")
    assert stored["outputs"] == "backupName: wiki-1"
    assert stored["condition_ids"]


@pytest.mark.expect_log("one_owner")
def test_a_condition_belongs_to_one_record(database, make_operation, target):
    from psycopg2.errors import CheckViolation

    operation = make_operation()
    both = {"instance_id": target.id, "operation_id": operation.id}
    with pytest.raises(CheckViolation), database.transaction() as env:
        env["vworkspace.condition"].sudo().create(
            {**both, "type": "Ready", "status": "True"}
        )


# === FIXTURES === #

ALL_CAPABILITIES = [
    (0, 0, {"capability": capability, "engine": engine})
    for _type, engine, capability, _needs_approval in TEMPLATES.values()
]


@pytest.fixture
def target(make_instance, deploy):
    """A deployed application that can do everything."""
    instance = make_instance(capability_ids=ALL_CAPABILITIES)
    deploy(instance)
    return instance


@pytest.fixture
def make_operation(database, target):
    """Return a function that makes a draft operation from a template."""

    def make(*, template="backup.velero", **values):
        with database.transaction() as env:
            found = env[TEMPLATE].search([("name", "=", template)])
            values = {
                "name": "backup-1",
                "target_id": target.id,
                "template_id": found.id,
                **values,
            }
            return env[OPERATION].create(
                {name: value for name, value in values.items() if value is not None}
            )

    return make


@pytest.fixture
def operation_template(database):
    with database.transaction() as env:
        made = env[TEMPLATE].create(
            {"name": "test.job", "type": "RunCommand", "engine": "workflow"}
        )
    yield made
    with database.transaction() as env:
        env[TEMPLATE].browse(made.ids).unlink()


@pytest.fixture
def web_server():
    """A server that notes which paths are asked of it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.requested.append(self.path)
            self.send_error(404)

        def log_message(self, *_arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.requested = []
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


# === HELPERS === #


def live_operation(control_plane, namespace, name="backup-1"):
    return control_plane.request("GET", f"{COLLECTION.format(namespace)}/{name}")


def list_operations(control_plane, namespace):
    return control_plane.request("GET", COLLECTION.format(namespace))["items"]


def report(database, operation, control_plane, namespace, status):
    """Write a status as the operator would, and hand it over as a feeder does."""
    from odoo.addons.vworkspace_push.status import sink

    control_plane.kubectl(
        *("patch", "operation", "backup-1", "-n", namespace),
        *("--subresource", "status", "--type", "merge"),
        *("-p", json.dumps({"status": status})),
    )
    live = live_operation(control_plane, namespace)
    with database.transaction() as env:
        stored = env[OPERATION].browse(operation.ids)
        sink.ingest(env, stored.cluster_id.id, [sink.Report.from_object(live)])


def take_rights_away(control_plane, namespace):
    control_plane.kubectl("delete", "rolebinding", "--all", "-n", namespace)
    account = "system:serviceaccount:vworkspace-system:vworkspace-control-plane"
    asked = ("auth", "can-i", "patch", "operations.ops.vworkspace.io", "--as", account)
    wait_until(
        lambda: "no" in control_plane.kubectl(*asked, "-n", namespace, check=False),
        what="the rights to be gone",
        timeout=30,
    )


def vanish(database, operation, control_plane, namespace):
    from odoo.addons.vworkspace_push.status import sink

    path = f"{COLLECTION.format(namespace)}/backup-1"
    control_plane.request("DELETE", path)
    listed = control_plane.request("GET", COLLECTION.format(namespace))
    with database.transaction() as env:
        stored = env[OPERATION].browse(operation.ids)
        absent = sink.missing(
            *(env, stored.cluster_id.id, "Operation", namespace, set()),
            listed["metadata"]["resourceVersion"],
        )
        sink.gone(env, stored.cluster_id.id, absent)
