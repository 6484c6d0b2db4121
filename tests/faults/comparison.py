"""The end of every fault test: all intents, all objects and all records agree.

`differences` compares what was wanted with what there is, `status_differences` what
there is with what the records show of it.
"""

import json

from kube import ownership, resources
from tests.live_objects import list_objects

DEFAULTS = {"mode": "managed"}  # what the definition adds to a spec

RECORDS = """
    SELECT record.name, namespace.name, revision.manifest, record.uid,
           record.delivery_state, record.intent_revision, record.delivered_revision
      FROM vworkspace_application_instance record
      JOIN vworkspace_revision revision ON revision.id = record.revision_id
      JOIN vworkspace_cluster_namespace namespace ON namespace.id = record.namespace_id
      JOIN vworkspace_cluster cluster
        ON cluster.id = record.cluster_id
       AND btrim(cluster.ca_certificate, E' \\n') = %s
  ORDER BY record.id
"""

# How records show a status, by kind: table, a condition's owner, and what only it has
STATUS_TABLES = {
    resources.APPLICATION_INSTANCE: (
        "vworkspace_application_instance",
        "instance_id",
        """'drifted', COALESCE(record.is_drifted, FALSE),
           'endpoints', (
               SELECT COALESCE(json_agg(json_build_array(
                          name, url, COALESCE(type, ''), COALESCE(notes, ''))
                          ORDER BY id), '[]')
                 FROM vworkspace_endpoint WHERE instance_id = record.id)""",
    ),
    resources.OPERATION: (
        "vworkspace_operation",
        "operation_id",
        """'phase', COALESCE(record.phase, ''),
           'outputs', COALESCE(record.outputs, ''),
           'logs', json_build_array(
               COALESCE(record.logs_url, ''), COALESCE(record.logs_ref, '')),
           'times', json_build_array(record.started_at, record.finished_at)""",
    ),
}
STATUSES = """
    SELECT record.uid, namespace.name || '/' || record.name, record.delivery_state,
           record.applied_fields,
           json_build_object(
               'health', COALESCE(record.health, ''),
               'message', COALESCE(record.health_message, ''),
               'version', COALESCE(record.observed_resource_version, ''),
               'generation', record.observed_generation,
               'finalizers', COALESCE(record.finalizers, ''),
               'conditions', conditions.found,
               {others})
      FROM {table} record
      JOIN vworkspace_cluster_namespace namespace ON namespace.id = record.namespace_id
      JOIN vworkspace_cluster cluster
        ON cluster.id = record.cluster_id AND cluster.active
       AND btrim(cluster.ca_certificate, E' \\n') = %s
CROSS JOIN LATERAL (
           SELECT COALESCE(json_object_agg(type, json_build_array(
                      status, COALESCE(reason, ''), COALESCE(message, ''))), '{{}}')
                  AS found
             FROM vworkspace_condition WHERE {owner} = record.id) conditions
     WHERE record.uid IS NOT NULL
  ORDER BY record.id
"""
GONE = ("lost", "deleted")  # states of records without an object
MAX_MESSAGE = 500  # characters of what explains a health


def differences(connection, control_plane):
    """Return what does not agree, one sentence each.

    :param connection: to the database of the records
    """
    with connection.cursor() as cr:
        cr.execute(RECORDS, [control_plane.ca_pem.strip()])
        rows = cr.fetchall()
    connection.commit()
    found = []
    live = {}
    for namespace in {row[1] for row in rows}:
        for obj in list_objects(control_plane, namespace):
            live[namespace, obj["metadata"]["name"]] = obj
    for name, namespace, manifest, uid, state, wanted, delivered in rows:
        obj = live.pop((namespace, name), None)
        place = f"{namespace}/{name}"
        if state == "deleted":
            found += [f"{place} is deleted and has an object"] if obj else []
            continue
        if state != "applied":
            found.append(f"{place} is {state}")
        if delivered != wanted:
            found.append(f"{place} is delivered to {delivered} of {wanted}")
        found += _compare_object(place, json.loads(manifest), uid, obj)
    found += [f"{'/'.join(place)} has no record" for place in live]
    return found


def _compare_object(place, manifest, uid, obj):
    if obj is None:
        return [f"{place} has no object"]
    found = []
    if obj["metadata"]["uid"] != uid:
        found.append(f"{place} is another object than the record's")
    if obj["spec"] != {**DEFAULTS, **manifest["spec"]}:
        found.append(f"{place}: {obj['spec']} is not {manifest['spec']}")
    if obj["metadata"]["labels"] != manifest["metadata"]["labels"]:
        found.append(f"{place}: {obj['metadata']['labels']} are not the labels")
    return found


def status_differences(connection, control_plane):
    """Return which records show another status than their object has, and how.

    :param connection: to the database of the records
    """
    found = []
    for resource, (table, owner, others) in STATUS_TABLES.items():
        items = control_plane.request("GET", resource.collection_path(None))["items"]
        live = {obj["metadata"]["uid"]: obj for obj in items}
        with connection.cursor() as cr:
            statement = STATUSES.format(table=table, owner=owner, others=others)
            cr.execute(statement, [control_plane.ca_pem.strip()])
            rows = cr.fetchall()
        connection.commit()
        for uid, place, state, applied, shown in rows:
            obj = live.get(uid)
            if obj is None or state in GONE:
                found += _compare_end(place, resource, state, obj, shown)
                continue
            wanted = _status_of(obj, resource.kind, applied)
            found += [
                f"{place}: {key} is {shown[key]!r} instead of {value!r}"
                for key, value in wanted.items()
                if shown[key] != value
            ]
    return found


def _compare_end(place, resource, state, obj, shown):
    if state not in GONE:
        return [f"{place} has no object and is {state}"]
    found = [f"{place} is {state} and has an object"] if obj else []
    ended = ["health", "finalizers"]
    if resource is resources.APPLICATION_INSTANCE:  # what an operation did stays known
        ended += ["conditions", "endpoints"]
    if any(shown[name] for name in ended):
        found.append(f"{place} is {state} and shows {shown}")
    return found


def _status_of(obj, kind, applied):
    """Return what a record has to show of an object, as STATUSES reads it."""
    observed = resources.observe({**obj, "kind": kind})
    explanation = observed.explanation
    told = (explanation.message or explanation.reason) if explanation else ""
    wanted = {
        "health": observed.health,
        "message": told[:MAX_MESSAGE],
        "version": observed.resource_version,
        "generation": observed.observed_generation or 0,
        "finalizers": ", ".join(observed.finalizers),
        "conditions": {
            c.type: [c.status, c.reason, c.message] for c in observed.conditions
        },
    }
    if kind == resources.APPLICATION_INSTANCE.kind:
        return {
            **wanted,
            "drifted": bool(ownership.drift(applied or "", obj)),
            "endpoints": [[e.name, e.url, e.type, e.notes] for e in observed.endpoints],
        }
    return {
        **wanted,
        "phase": observed.phase,
        "outputs": "\n".join(f"{k}: {v}" for k, v in observed.outputs.items()),
        "logs": [observed.logs_url, observed.logs_ref],
        "times": [_stored(observed.started_at), _stored(observed.finished_at)],
    }


def _stored(moment):
    """Return a time as PostgreSQL puts it into JSON."""
    return moment and f"{moment:%Y-%m-%dT%H:%M:%S}"
