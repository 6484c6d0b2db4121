"""The end of every fault test: all intents, all objects and all records agree."""

import json

from tests.live_objects import list_objects

DEFAULTS = {"mode": "managed"}  # what the definition adds to a spec

RECORDS = """
    SELECT record.name, namespace.name, revision.manifest, record.uid,
           record.delivery_state, record.intent_revision, record.delivered_revision
      FROM vworkspace_application_instance record
      JOIN vworkspace_revision revision ON revision.id = record.revision_id
      JOIN vworkspace_cluster_namespace namespace ON namespace.id = record.namespace_id
  ORDER BY record.id
"""


def differences(connection, control_plane):
    """Return what does not agree, one sentence each.

    :param connection: to the database of the records
    """
    with connection.cursor() as cr:
        cr.execute(RECORDS)
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
