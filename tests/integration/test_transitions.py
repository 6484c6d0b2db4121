"""The log of what changed in what clusters report: the timeline of each record."""

import pytest

from tests.integration.test_sink import (
    adopt,
    adopted,  # noqa: F401 a fixture
    confirm,
    in_transaction,
    ingest,
    reachable,
    unreachable,
)
from tests.live_objects import SINCE, condition, degraded_status, ready_status

TRANSITION = "vworkspace.transition"


def test_what_appears_is_logged_with_the_clusters_own_time(database, instance):
    ingest(database, instance, status=ready_status(message="It runs."), version="100")

    ready, health = transitions(database, instance)
    assert (ready["type"], ready["previous_status"], ready["status"]) == (
        *("Ready", False),
        "True",
    )
    assert ready["message"] == "It runs."
    assert f"{ready['at']:%Y-%m-%dT%H:%M:%SZ}" == SINCE
    assert ready["generation"] == 1
    assert (health["type"], health["previous_status"], health["status"]) == (
        *("Health", False),
        "ready",
    )
    assert health["message"] == "It runs."


def test_a_change_of_status_says_what_it_was_before(database, instance):
    ingest(database, instance, status=ready_status(), version="100")
    clear(database)

    status = {
        "observedGeneration": 1,
        "conditions": [condition("Ready", "False", reason="CrashLoop")],
    }
    ingest(database, instance, status=status, version="101")

    ready, health = transitions(database, instance)
    assert (ready["previous_status"], ready["status"]) == ("True", "False")
    assert ready["reason"] == "CrashLoop"
    assert (health["previous_status"], health["status"]) == ("ready", "failed")
    assert health["reason"] == "CrashLoop"


def test_another_reason_is_a_transition_and_another_message_is_none(database, instance):
    ingest(database, instance, status=ready_status(message="One."), version="100")
    clear(database)

    ingest(database, instance, status=ready_status(message="Two."), version="101")
    message_only = transitions(database, instance)
    status = {
        "observedGeneration": 1,
        "conditions": [condition("Ready", "True", reason="Other")],
    }
    ingest(database, instance, status=status, version="102")

    assert message_only == []
    (changed,) = transitions(database, instance)
    assert (changed["previous_status"], changed["status"]) == ("True", "True")
    assert changed["reason"] == "Other"


def test_what_disappears_is_logged(database, instance):
    ingest(database, instance, status=degraded_status(), version="100")
    clear(database)

    ingest(database, instance, status=ready_status(), version="101")

    gone = [t for t in transitions(database, instance) if t["type"] == "Degraded"]
    assert [(t["previous_status"], t["status"]) for t in gone] == [("True", False)]


def test_a_replay_is_no_transition(database, instance):
    ingest(database, instance, status=ready_status(), version="100")
    clear(database)

    for version in ("100", "101"):
        ingest(database, instance, status=ready_status(), version=version)

    assert transitions(database, instance) == []


def test_the_end_of_an_object_is_the_end_of_its_health(database, instance):
    ingest(database, instance, status=ready_status(), version="100")
    clear(database)

    ingested = ingest(database, instance, status={}, version="101", deleted=True)
    confirm(database, instance, ingested.missing)

    (end,) = transitions(database, instance)
    assert (end["type"], end["previous_status"], end["status"]) == (
        *("Health", "ready"),
        False,
    )
    assert end["reason"] == "lost"


def test_a_cluster_that_does_not_answer_is_logged_once(database, cluster, instance):
    ingest(database, instance, status=ready_status(), version="100")
    clear(database)

    for _time in range(2):
        unreachable(database, instance, "No answer.")
    for _time in range(2):
        reachable(database, instance)

    lost, back = transitions(database, instance)
    assert (lost["previous_status"], lost["status"]) == ("ready", "unknown")
    assert lost["message"] == "No answer."
    assert (back["previous_status"], back["status"]) == ("unknown", "ready")
    assert [t["status"] for t in of_cluster(database, cluster)] == ["False", "True"]


def test_long_and_marked_up_messages_are_cut_and_kept_as_text(database, instance):
    markup = "<script>alert(1)</script>" * 2_000

    ingest(database, instance, status=ready_status(message=markup), version="100")

    ready = transitions(database, instance)[0]
    assert ready["message"] == markup[:2_000]


@pytest.mark.parametrize(("days", "left"), [("30", 0), ("0", 2), ("365", 2)])
def test_they_are_kept_as_long_as_the_audit_trail(database, instance, days, left):
    ingest(database, instance, status=ready_status(), version="100")
    database.sql(
        "UPDATE vworkspace_transition SET create_date = create_date - interval"
        " '40 days' WHERE instance_id = %s",
        instance.id,
    )

    with database.transaction() as env:
        parameters = env["ir.config_parameter"].sudo()
        parameters.set_param("vworkspace_push.audit_retention_days", days)
        env[TRANSITION]._gc_transitions()

    assert len(transitions(database, instance)) == left


def test_they_go_with_their_record(database, make_instance):
    instance = adopt(database, make_instance("short-lived"))
    ingest(database, instance, status=ready_status(), version="100")
    database.sql(
        "UPDATE vworkspace_application_instance SET delivery_state = 'lost'"
        " WHERE id = %s",
        instance.id,
    )

    database.call("admin", instance._name, "unlink", instance.ids)

    rows = database.sql(
        "SELECT id FROM vworkspace_transition WHERE instance_id = %s", instance.id
    )
    assert rows == []


# === FIXTURES AND HELPERS === #


@pytest.fixture
def instance(adopted):  # noqa: F811
    return adopted


def transitions(database, instance):
    """Return what was logged of the record, the first first, health last."""
    with database.transaction() as env:
        rows = env[TRANSITION].search([("instance_id", "=", instance.id)], order="id")
        return rows.read()


def of_cluster(database, cluster):
    with database.transaction() as env:
        rows = env[TRANSITION].search(
            [
                ("cluster_id", "=", cluster.id),
                ("instance_id", "=", False),
                ("operation_id", "=", False),
            ],
            order="id",
        )
        return rows.read()


def clear(database):
    in_transaction(database, lambda env: env[TRANSITION].sudo().search([]).unlink())
