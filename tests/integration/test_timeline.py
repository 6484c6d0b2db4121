"""The timeline: transitions, with deliveries and what people did between them."""

from datetime import timedelta

import pytest

INSTANCE = "vworkspace.application.instance"
TIMELINE = "vworkspace.timeline"


def test_transitions_and_audit_entries_are_one_story_newest_first(database, instance):
    record_entry(database, instance, "deploy", "applied", minutes_ago=5)
    record_transition(database, instance, "Ready", "True", minutes_ago=4)
    record_entry(database, instance, "pause", "done", minutes_ago=3)
    record_transition(database, instance, "Health", "degraded", minutes_ago=2)

    rows = timeline(database, instance)["rows"]

    assert [(row["kind"], row["title"]) for row in rows] == [
        ("health", "Health"),
        ("person", "Pause"),
        ("condition", "Ready"),
        ("delivery", "Deploy"),
    ]
    assert rows[0]["status_label"] == "Degraded"
    assert rows[3]["status_label"] == "Applied"
    assert rows[3]["user"] == "Mitchell Admin"


def test_what_a_delivery_caused_in_the_same_second_comes_after_it(database, instance):
    record_transition(database, instance, "Ready", "True", minutes_ago=5)
    record_entry(database, instance, "deploy", "applied", minutes_ago=5)

    rows = timeline(database, instance)["rows"]

    assert [row["title"] for row in rows] == ["Ready", "Deploy"]


@pytest.mark.parametrize(
    ("kind", "titles"),
    [
        ("health", ["Health"]),
        ("condition", ["Ready"]),
        ("delivery", ["Deploy"]),
        ("person", ["Pause"]),
        ("seen", ["Seen in the Cluster"]),
    ],
)
def test_one_kind_can_be_looked_at_alone(database, instance, kind, titles):
    record_transition(database, instance, "Health", "ready")
    record_transition(database, instance, "Ready", "True")
    record_entry(database, instance, "deploy", "applied")
    record_entry(database, instance, "pause", "done")
    record_entry(database, instance, "observe", "drifted")

    rows = timeline(database, instance, kind=kind)["rows"]

    assert [row["title"] for row in rows] == titles


def test_an_application_tells_of_its_operations_too(database, instance):
    with database.transaction() as env:
        operation = env["vworkspace.operation"].create(
            {"target_id": instance.id, "type": "Backup", "engine": "velero"}
        )
        name = operation.name
    record_transition(database, operation, "Succeeded", "True")

    (row,) = timeline(database, instance)["rows"]
    assert (row["title"], row["about"]) == ("Succeeded", name)
    (row,) = timeline(database, operation)["rows"]
    assert row["title"] == "Succeeded"


def test_earlier_rows_are_there_to_be_asked_for(database, instance):
    for number in range(3):
        record_transition(database, instance, f"T{number}", "True", minutes_ago=number)

    page = timeline(database, instance, limit=2)

    assert [row["title"] for row in page["rows"]] == ["T0", "T1"]
    assert page["more"]
    assert not timeline(database, instance, limit=3)["more"]


def test_another_records_story_is_not_told(database, instance, make_instance):
    record_transition(database, make_instance("other"), "Ready", "True")

    assert timeline(database, instance)["rows"] == []


def test_the_rows_of_one_record_are_found_by_index(database, instance):
    from odoo.tools import SQL

    with database.transaction() as env:
        env.cr.execute("SET LOCAL enable_seqscan = off")
        domain = [("res_model", "=", INSTANCE), ("res_id", "=", instance.id)]
        query = env[TIMELINE]._search(domain)
        env.cr.execute(SQL("EXPLAIN %s", query.select()))
        plan = "\n".join(row[0] for row in env.cr.fetchall())
    assert "Seq Scan on vworkspace_transition" not in plan
    assert "Seq Scan on vworkspace_audit_entry" not in plan


# === HELPERS === #


@pytest.fixture
def instance(make_instance):
    return make_instance()


def timeline(database, record, **arguments):
    return database.call(
        *("admin", record._name, "get_timeline", record.ids), **arguments
    )


def record_transition(database, record, type_, status, *, minutes_ago=1):
    with database.transaction() as env:
        record = env[record._name].browse(record.ids)
        column = {INSTANCE: "instance_id"}.get(record._name, "operation_id")
        env["vworkspace.transition"]._add(
            [
                {
                    "cluster_id": record.cluster_id.id,
                    column: record.id,
                    "type": type_,
                    "status": status,
                    "at": past(env, minutes_ago),
                }
            ]
        )


def record_entry(database, record, action, outcome, *, minutes_ago=1):
    with database.transaction() as env:
        record = env[record._name].browse(record.ids)
        subject = record._audit_subject()
        env["vworkspace.audit.entry"]._add(
            [
                {
                    **subject,
                    "action": action,
                    "outcome": outcome,
                    "date": past(env, minutes_ago),
                }
            ]
        )


def past(env, minutes):
    env.cr.execute("SELECT date_trunc('minute', now() AT TIME ZONE 'UTC')")
    return env.cr.fetchone()[0] - timedelta(minutes=minutes)
