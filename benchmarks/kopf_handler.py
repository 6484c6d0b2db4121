"""The rival of `ingest`: a kopf handler that writes the rows that the sink writes.

One transaction for each event, one connection for each of kopf's threads, as handlers
are written; the tables are copies of ours, with the same indexes.
"""

import os
import threading

import kopf
import psycopg2

_local = threading.local()

CLUSTER = int(os.environ["RIVAL_CLUSTER"])
HEALTH = {"True": "degraded", "False": "ready"}


@kopf.on.startup()
def configure(settings, **_):
    settings.posting.enabled = False
    settings.execution.max_workers = 8


@kopf.on.event("apps.vworkspace.io", "v1alpha1", "applicationinstances")
def store(body, **_):
    metadata, status = body["metadata"], body.get("status", {})
    conditions = {c["type"]: c for c in status.get("conditions", [])}
    health = HEALTH.get(conditions.get("Degraded", {}).get("status"), "unknown")
    connection = _connection()
    with connection, connection.cursor() as cursor:
        cursor.execute(
            """UPDATE rival_instance
                  SET health = %s, reported_health = %s, health_message = %s,
                      observed_resource_version = %s, observed_generation = %s,
                      status_as_of = now() AT TIME ZONE 'UTC', last_reconcile_time = %s
                WHERE cluster_id = %s AND uid = %s
                  AND COALESCE(observed_resource_version, '0')::bigint < %s
            RETURNING id, cluster_id""",
            (
                *(health, health, conditions.get("Ready", {}).get("message")),
                *(metadata["resourceVersion"], status.get("observedGeneration")),
                *(status.get("lastReconcileTime"), CLUSTER, metadata["uid"]),
                int(metadata["resourceVersion"]),
            ),
        )
        if row := cursor.fetchone():
            _store_conditions(cursor, *row, conditions)
            _store_endpoints(cursor, row[0], status.get("endpoints", []))


def _store_conditions(cursor, instance_id, cluster_id, conditions):
    cursor.execute(
        "SELECT type, status FROM rival_condition WHERE instance_id = %s",
        (instance_id,),
    )
    known = dict(cursor.fetchall())
    for type_, condition in conditions.items():
        values = (
            *(condition["status"], condition["reason"], condition["message"]),
            condition["lastTransitionTime"],
        )
        cursor.execute(
            """INSERT INTO rival_condition (
                      instance_id, type, status, reason, message, last_transition_time)
               VALUES (%s, %s, %s, %s, %s, %s)
          ON CONFLICT (instance_id, type) WHERE instance_id IS NOT NULL DO UPDATE
                  SET status = EXCLUDED.status, reason = EXCLUDED.reason,
                      message = EXCLUDED.message,
                      last_transition_time = EXCLUDED.last_transition_time""",
            (instance_id, type_, *values),
        )
        before = known.get(type_)
        if before != condition["status"]:
            _log(cursor, cluster_id, instance_id, type_, values, before)
            if type_ == "Degraded":
                health = (HEALTH[condition["status"]], *values[1:])
                was = HEALTH.get(before)
                _log(cursor, cluster_id, instance_id, "Health", health, was)


def _log(cursor, cluster_id, instance_id, type_, values, before):
    cursor.execute(
        """INSERT INTO rival_transition (cluster_id, instance_id, type, status,
                  reason, message, at, previous_status, create_date)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, now() AT TIME ZONE 'UTC')""",
        (cluster_id, instance_id, type_, *values, before),
    )


def _store_endpoints(cursor, instance_id, endpoints):
    cursor.execute(
        "SELECT name, url FROM rival_endpoint WHERE instance_id = %s ORDER BY id",
        (instance_id,),
    )
    wanted = [(e["name"], e["url"]) for e in endpoints]
    if cursor.fetchall() == wanted:
        return
    cursor.execute("DELETE FROM rival_endpoint WHERE instance_id = %s", (instance_id,))
    for name, url in wanted:
        cursor.execute(
            "INSERT INTO rival_endpoint (instance_id, name, url) VALUES (%s, %s, %s)",
            (instance_id, name, url),
        )


def _connection():
    if not hasattr(_local, "connection"):
        _local.connection = psycopg2.connect(os.environ["RIVAL_DSN"])
    return _local.connection
