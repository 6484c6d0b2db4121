"""What tests of delivery do in Odoo, and in the cluster as somebody else."""

import json

RIVAL = "rival"  # a field manager
TABLE = "vworkspace_application_instance"
INSTANCE = "vworkspace.application.instance"


# === IN ODOO === #


def change(database, record, **values):
    database.call("admin", record._name, "write", record.ids, values)


def act(database, record, method, *, login="admin"):
    """Press a button of a record, as that user."""
    return database.call(login, record._name, method, record.ids)


def place_in(database, cluster):
    """Return the place of an application in a cluster's first namespace, as fields."""
    with database.transaction() as env:
        namespaces = env[cluster._name].browse(cluster.ids).namespace_ids
        return {"cluster_id": cluster.id, "namespace_id": namespaces[0].id}


def make_pending(database, *records):
    """Commit intents as a request would that died before it delivered them."""
    with database.transaction() as env:
        ids = [record.id for record in records]
        env[INSTANCE].browse(ids).action_deploy()
        env.cr.postcommit.clear()


def become_due(database, *records):
    database.sql(
        f"UPDATE {TABLE} SET next_attempt_at = now() AT TIME ZONE 'UTC'"  # noqa: S608
        " WHERE id = ANY(%s) AND next_attempt_at IS NOT NULL",
        [record.id for record in records],
    )


def states(database, *records):
    return [database.read(record, "delivery_state") for record in records]


def revisions(database, record, *names):
    """Return a dict for each revision of a record, the first one first."""
    with database.transaction() as env:
        found = env[record._name].browse(record.ids).revision_ids
        rows = found.sorted("number").read(names)
    return [{name: row[name] for name in names} for row in rows]


def audit(database, record, *names):
    """Return a dict for each audit entry about a record, the first one first."""
    domain = [("res_model", "=", record._name), ("res_id", "=", record.id)]
    with database.transaction() as env:
        entries = env["vworkspace.audit.entry"].search(domain, order="id")
        rows = entries.read(names)
    return [{name: row[name] for name in names} for row in rows]


# === IN THE CLUSTER === #


def patch(control_plane, namespace, body, *, name="wiki", manager=RIVAL):
    """Merge `body` into an object as another field manager; None removes a field."""
    control_plane.kubectl(
        *("patch", "applicationinstance", name, "-n", namespace),
        *("--type", "merge", "--field-manager", manager, "-p", json.dumps(body)),
    )


def set_version(control_plane, namespace, version, **keywords):
    body = {"spec": {"chart": {"version": version}}}
    patch(control_plane, namespace, body, **keywords)


def apply_as(control_plane, manifest, manager, *, force=False):
    """Apply a manifest on the server as that field manager."""
    control_plane.kubectl(
        *("apply", "--server-side", "--field-manager", manager, "-f", "-"),
        *(("--force-conflicts",) if force else ()),
        input=json.dumps(manifest),
    )


def as_other_database(database, record, *, other="another-database", name=None):
    """Return what another Odoo database would send for the form of `record`."""
    with database.transaction() as env:
        manifest = env[record._name].browse(record.ids)._build_manifest()
    annotations = manifest["metadata"].setdefault("annotations", {})
    annotations["push.vworkspace.io/database"] = other
    annotations["push.vworkspace.io/record"] = name or f"{record._name}/{record.id}"
    return manifest


def count_objects(control_plane, namespace):
    collection = (
        f"/apis/apps.vworkspace.io/v1alpha1/namespaces/{namespace}/applicationinstances"
    )
    return len(control_plane.request("GET", collection)["items"])
