"""The one door for status: ordered, idempotent, bounded, whoever feeds it."""

import dataclasses
import json
import threading
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from tests.live_objects import condition, degraded_status, ready_status
from tests.waiting import eventually

KIND = "ApplicationInstance"


# === ORDER AND REPETITION === #


def test_a_status_reaches_the_record_with_conditions_and_endpoints(database, adopted):
    ingest(database, adopted, status=ready_status(), version="100")

    stored = database.read(
        *(adopted, "health", "observed_generation", "observed_resource_version"),
        *("status_as_of", "endpoint_url"),
    )
    assert stored["health"] == "ready"
    assert stored["observed_generation"] == 1
    assert stored["observed_resource_version"] == "100"
    assert stored["status_as_of"]
    assert stored["endpoint_url"] == "https://wiki.example.com/"
    assert conditions(database, adopted) == {"Ready": "True"}


def test_an_older_version_is_ignored(database, adopted):
    ingest(database, adopted, status=degraded_status(), version="100")

    ingest(database, adopted, status=ready_status(), version="99")

    assert database.read(adopted, "health") == "degraded"


def test_versions_compare_as_numbers(database, adopted):
    ingest(database, adopted, status=degraded_status(), version="99")

    ingest(database, adopted, status=ready_status(), version="100")

    assert database.read(adopted, "health") == "ready"


def test_a_replay_writes_nothing(database, adopted):
    ingest(database, adopted, status=ready_status(), version="100")
    before = row_versions(database, adopted)

    ingest(database, adopted, status=ready_status(), version="100")

    assert row_versions(database, adopted) == before


def test_an_unchanged_condition_is_not_written_again(database, adopted):
    ingest(database, adopted, status=degraded_status(), version="100")
    before = condition_versions(database, adopted)

    ingest(
        database, adopted, status=degraded_status(message="Two gone."), version="101"
    )

    after = condition_versions(database, adopted)
    assert after["Ready"] == before["Ready"]
    assert after["Degraded"] != before["Degraded"]


def test_conditions_that_are_gone_are_removed(database, adopted):
    ingest(database, adopted, status=degraded_status(), version="100")

    ingest(database, adopted, status=ready_status(), version="101")

    assert conditions(database, adopted) == {"Ready": "True"}


def test_a_status_of_an_older_generation_is_unknown(database, adopted):
    obj = ready_status(generation=1)

    ingest(database, adopted, status=obj, version="100", generation=2)

    assert database.read(adopted, "health") == "unknown"


@pytest.mark.parametrize("versions", [("101", "100"), ("100", "101")])
def test_of_two_feeders_at_the_same_moment_the_newer_version_stays(
    database, adopted, versions
):
    texts = {"100": degraded_status(), "101": ready_status()}
    first, second = (report(adopted, status=texts[v], version=v) for v in versions)
    cluster_id = cluster_of(database, adopted)
    from odoo.addons.vworkspace_push.status import sink

    with read_committed(database) as env:
        sink.ingest(env, cluster_id, [first])
        late = threading.Thread(
            target=in_transaction, args=(database, sink.ingest, cluster_id, [second])
        )
        late.start()
        eventually(lambda: waits_for_a_lock(database), what="the second to wait")
    late.join(timeout=20)

    assert not late.is_alive()
    stored = database.read(adopted, "health", "observed_resource_version")
    assert stored["health"] == "ready"
    assert stored["observed_resource_version"] == "101"
    assert conditions(database, adopted) == {"Ready": "True"}


def test_however_many_reports_there_are_they_take_as_many_statements(
    database, make_instance
):
    few = [adopt(database, make_instance(f"few-{n}")) for n in range(2)]
    many = [adopt(database, make_instance(f"many-{n}")) for n in range(40)]

    of_few = statements(database, few)
    assert statements(database, many) <= of_few


# === A CLUSTER RESTORED FROM A BACKUP === #


def test_a_complete_list_overrules_what_was_seen_in_another_life(database, adopted):
    ingest(database, adopted, status=degraded_status(), version="500")
    age(database, adopted, status_as_of=60)

    ingest(database, adopted, status=ready_status(), version="70", listed_version="80")

    assert database.read(adopted, "health") == "ready"
    assert database.read(adopted, "observed_resource_version") == "70"


def test_a_list_does_not_overrule_what_was_seen_after_it_was_asked_for(
    database, adopted
):
    asked_at = datetime.now(UTC).replace(tzinfo=None)
    ingest(database, adopted, status=degraded_status(), version="500")

    ingest(
        *(database, adopted),
        status=ready_status(),
        version="70",
        listed_version="80",
        listed_at=asked_at,
    )

    assert database.read(adopted, "health") == "degraded"


def test_a_list_does_not_overrule_what_was_applied_a_moment_ago(database, adopted):
    ingest(database, adopted, status=degraded_status(), version="500")
    age(database, adopted, status_as_of=60, delivered_at=5)
    database.sql(
        "UPDATE vworkspace_application_instance SET resource_version = '500'"
        " WHERE id = %s",
        adopted.id,
    )

    ingest(database, adopted, status=ready_status(), version="70", listed_version="80")

    assert database.read(adopted, "health") == "degraded"


def test_what_was_applied_in_another_life_is_missing_from_a_list(database, adopted):
    age(database, adopted, delivered_at=3600)

    absent = census(database, adopted, present=(), version="9")

    assert [missing.uid for missing in absent] == [uid_of(adopted)]


# === WHOSE STATUS === #


def test_uids_without_a_record_are_handed_back(database, adopted):
    from odoo.addons.vworkspace_push.status import sink

    mine = report(adopted, status=ready_status())
    foreign = report(adopted, uid="nobodys-uid", status=ready_status())

    cluster_id = cluster_of(database, adopted)
    ingested = in_transaction(database, sink.ingest, cluster_id, [mine, foreign])

    assert ingested.unclaimed == {"nobodys-uid"}
    assert ingested.written == 1
    assert database.read(adopted, "health") == "ready"


def test_another_clusters_report_does_not_touch_the_record(database, adopted):
    from odoo.addons.vworkspace_push.status import sink

    with database.transaction() as env:
        other = env["vworkspace.cluster"].create(
            {
                "name": "Other",
                "cluster_id": "other",
                "server_url": "https://127.0.0.1:1",
            }
        )
    reports = [report(adopted, status=ready_status())]
    ingested = in_transaction(database, sink.ingest, other.id, reports)

    assert ingested.unclaimed == {uid_of(adopted)}
    assert database.read(adopted, "health") is False


# === THE END OF AN OBJECT === #


def test_an_object_missing_from_a_complete_list_is_lost_once_confirmed(
    database, adopted
):
    ingest(database, adopted, status=ready_status(), version="100")

    absent = census(database, adopted, present=(), version="200")
    unconfirmed = database.read(adopted, "delivery_state")
    confirm(database, adopted, absent)

    assert unconfirmed == "applied"

    stored = database.read(
        adopted, "delivery_state", "delivery_message", "health", "condition_ids"
    )
    assert stored["delivery_state"] == "lost"
    assert "somebody else deleted it" in stored["delivery_message"]
    assert (stored["health"], stored["condition_ids"]) == (False, [])


def test_an_object_in_the_list_stays(database, adopted):
    assert census(database, adopted, present=[uid_of(adopted)], version="200") == []


def test_what_was_applied_after_the_list_is_not_missing_from_it(database, adopted):
    assert census(database, adopted, present=(), version="9") == []


def test_an_object_that_was_to_be_deleted_is_deleted(database, adopted):
    database.sql(
        "UPDATE vworkspace_application_instance SET delivery_state = 'deleting'"
        " WHERE id = %s",
        adopted.id,
    )

    ingest(database, adopted, status={}, version="101", deleted=True)

    assert database.read(adopted, "delivery_state") == "deleted"


def test_an_object_that_somebody_else_deleted_is_lost(database, adopted):
    ingested = ingest(database, adopted, status={}, version="101", deleted=True)
    unconfirmed = database.read(adopted, "delivery_state")
    confirm(database, adopted, ingested.missing)

    assert unconfirmed == "applied"
    assert database.read(adopted, "delivery_state") == "lost"


def test_an_end_that_was_confirmed_of_another_object_ends_nothing(database, adopted):
    (absent,) = census(database, adopted, present=(), version="200")
    database.sql(
        "UPDATE vworkspace_application_instance SET uid = 'another' WHERE id = %s",
        adopted.id,
    )

    confirm(database, adopted, [absent])

    assert database.read(adopted, "delivery_state") == "applied"


def test_the_end_of_many_objects_takes_as_many_statements_as_that_of_few(
    database, make_instance
):
    few = [adopt(database, make_instance(f"few-{n}")) for n in range(2)]
    many = [adopt(database, make_instance(f"many-{n}")) for n in range(40)]

    of_few = statements_of_end(database, few)
    assert statements_of_end(database, many) <= of_few


def test_a_lost_object_that_a_restored_backup_brings_back_is_applied_again(
    database, adopted
):
    ingest(database, adopted, status=ready_status(), version="100")
    lose(database, adopted)

    ingest(database, adopted, status=ready_status(), version="70", listed_version="80")

    stored = database.read(adopted, "delivery_state", "delivery_message", "health")
    assert (stored["delivery_state"], stored["health"]) == ("applied", "ready")
    assert not stored["delivery_message"]
    assert seen(database, adopted) == ["lost", "applied"]


def test_another_object_in_its_place_leaves_it_lost(database, adopted):
    lose(database, adopted)

    ingested = ingest(
        database,
        adopted,
        status=ready_status(),
        uid="replacement",
        listed_version="200",
        version="150",
    )

    assert ingested.unclaimed == {"replacement"}
    assert database.read(adopted, "delivery_state") == "lost"


@pytest.mark.parametrize("listed_version", ["200", None])
def test_what_was_read_before_the_end_brings_nothing_back(
    database, adopted, listed_version
):
    asked_at = datetime.now(UTC).replace(tzinfo=None)
    lose(database, adopted, minutes_ago=0)

    ingest(
        database,
        adopted,
        status=ready_status(),
        version="150",
        listed_version=listed_version,
        listed_at=asked_at,
    )

    stored = database.read(adopted, "delivery_state", "health")
    assert (stored["delivery_state"], stored["health"]) == ("lost", False)


def test_what_was_asked_for_before_the_end_is_not_sent_by_itself(database, adopted):
    lose(database, adopted)
    intend(database, adopted)

    ingest(
        database, adopted, status=ready_status(), version="150", listed_version="200"
    )

    assert database.read(adopted, "delivery_state") == "lost"


def test_a_list_of_the_whole_cluster_finds_what_is_missing_anywhere(database, adopted):
    from odoo.addons.vworkspace_push.status import sink

    cluster_id = cluster_of(database, adopted)
    absent = in_transaction(
        database, sink.missing, cluster_id, KIND, None, [uid_of(adopted)], "200"
    )
    everywhere = in_transaction(
        database, sink.missing, cluster_id, KIND, None, [], "200"
    )

    assert uid_of(adopted) not in {missing.uid for missing in absent}
    assert uid_of(adopted) in {missing.uid for missing in everywhere}


# === UNTRUSTED TEXT === #


def test_markup_is_kept_as_text_and_posted_escaped(database, adopted):
    markup = "<script>alert(1)</script><b>bold</b>"
    status = {
        "observedGeneration": 1,
        "conditions": [condition("Ready", "True", message=markup, reason=markup)],
        "endpoints": [{"name": markup, "url": "https://example.com/"}],
    }

    ingest(database, adopted, status=status, version="100")

    assert database.read(adopted, "health_message") == markup
    with database.transaction() as env:
        record = env[adopted._name].browse(adopted.ids)
        assert record.condition_ids.message == markup
        assert record.endpoint_ids.name == markup


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", 7, None]
)
def test_only_web_addresses_become_links(database, adopted, url):
    status = {**ready_status(), "endpoints": [{"name": "web", "url": url}]}

    ingest(database, adopted, status=status, version="100")

    assert database.read(adopted, "endpoint_ids") == []


def test_nul_bytes_and_lone_surrogates_do_not_break_a_batch(database, adopted):
    status = ready_status(message="before\x00after \ud800 end")

    ingest(database, adopted, status=status, version="100")

    stored = database.read(adopted, "health_message")
    assert stored.startswith("beforeafter")
    assert stored.endswith("end")


def test_a_message_of_full_length_is_stored(database, adopted):
    ingest(database, adopted, status=ready_status(message="x" * 40_000), version="100")

    with database.transaction() as env:
        record = env[adopted._name].browse(adopted.ids)
        assert len(record.condition_ids.message) == 32_768
        assert len(record.health_message) <= 500


def test_texts_with_quotes_and_escapes_are_stored_as_they_are(database, adopted):
    text = "it's \"100 %s\" at C:\\new\n\t{'a': 1} \u2028 \U0001f600 \\u0041 $1 %(x)s"

    ingest(database, adopted, status=degraded_status(message=text), version="100")

    with database.transaction() as env:
        record = env[adopted._name].browse(adopted.ids)
        stored = {c.type: c.message for c in record.condition_ids}
        logged = env["vworkspace.transition"].search(
            [("instance_id", "=", record.id), ("type", "=", "Degraded")]
        )
        assert (stored["Degraded"], record.health_message) == (text, text)
        assert logged.message == text


def test_what_has_a_wrong_type_reads_as_absent(database, adopted):
    status = {
        "observedGeneration": "1",
        "conditions": [
            condition("Ready", "True", message=7, reason=["a"], since=12),
            condition("Weird/Type", "Unknown"),
            condition("Ready", "Perhaps"),
            {"status": "True"},
            "not a mapping",
        ],
        "endpoints": {"name": "web"},
        "lastReconcileTime": "yesterday",
    }

    ingest(database, adopted, status=status, version="100")

    stored = database.read(adopted, "health", "last_reconcile_time", "endpoint_ids")
    assert stored["health"] == "unknown"  # its generation is no number
    assert (stored["last_reconcile_time"], stored["endpoint_ids"]) == (False, [])
    expected = {"Ready": "True", "Weird/Type": "Unknown"}
    assert conditions(database, adopted) == expected


def test_thousands_of_conditions_and_endpoints_are_cut_but_for_those_that_count(
    database, adopted
):
    status = {
        "observedGeneration": 1,
        "conditions": [
            *[condition(f"Extra{n}", "True") for n in range(3_000)],
            condition("Ready", "True"),
        ],
        "endpoints": [
            {"name": f"e{n}", "url": f"https://{n}.example.com/"} for n in range(3_000)
        ],
    }

    ingest(database, adopted, status=status, version="100")

    stored = database.read(adopted, "health", "endpoint_ids")
    assert stored["health"] == "ready"
    assert len(stored["endpoint_ids"]) == 64
    assert len(conditions(database, adopted)) == 64


@pytest.mark.expect_log("cannot be stored")
def test_one_report_that_cannot_be_stored_does_not_stop_the_others(
    database, make_instance, adopted
):
    from odoo.addons.vworkspace_push.status import sink

    others = [adopt(database, make_instance(f"other-{n}")) for n in range(4)]
    reports = [report(each, status=ready_status()) for each in others]
    bad = report(adopted, status=ready_status())
    bad = dataclasses.replace(
        bad, observed=dataclasses.replace(bad.observed, observed_generation=2**40)
    )
    cluster_id = cluster_of(database, adopted)

    ingested = in_transaction(
        database, sink.ingest, cluster_id, [*reports[:2], bad, *reports[2:]]
    )

    assert ingested.written == 4
    assert {database.read(each, "health") for each in others} == {"ready"}
    assert database.read(adopted, "health") is False


@pytest.mark.expect_log("bad query")
@pytest.mark.parametrize(
    ("change", "undo"),
    [
        pytest.param("RENAME reason TO why", "RENAME why TO reason", id="no column"),
        pytest.param("ADD later int NOT NULL", "DROP later", id="another column"),
    ],
)
def test_tables_that_are_being_changed_cost_no_report(database, adopted, change, undo):
    from odoo.addons.vworkspace_push.status import sink

    database.sql("DELETE FROM vworkspace_condition")
    database.sql(f"ALTER TABLE vworkspace_condition {change}")
    try:
        with pytest.raises(sink.SchemaError):
            ingest(database, adopted, status=ready_status(), version="100")
    finally:
        database.sql(f"ALTER TABLE vworkspace_condition {undo}")

    assert database.read(adopted, "health") is False
    ingest(database, adopted, status=ready_status(), version="100")
    assert database.read(adopted, "health") == "ready"


@pytest.mark.expect_log("cannot be stored")
def test_a_report_that_cannot_be_stored_is_told_of_once(database, adopted, caplog):
    from odoo.addons.vworkspace_push.status import sink

    bad = report(adopted, status=ready_status())
    bad = dataclasses.replace(
        bad, observed=dataclasses.replace(bad.observed, observed_generation=2**40)
    )
    cluster_id = cluster_of(database, adopted)

    for _time in range(3):
        in_transaction(database, sink.ingest, cluster_id, [bad])

    told = [r for r in caplog.records if "cannot be stored" in r.getMessage()]
    assert len(told) == 1


# === STALENESS === #


def test_a_silent_clusters_health_is_unknown_until_it_is_heard_again(
    database, cluster, adopted
):
    ingest(database, adopted, status=ready_status(), version="100")
    hear(database, cluster, minutes_ago=10)

    mark_stale(database)
    silent = database.read(adopted, "health", "health_message")
    hear(database, cluster, minutes_ago=0)
    ingest(database, adopted, status=ready_status(), version="100")

    assert silent["health"] == "unknown"
    assert "has not been heard of" in silent["health_message"]
    assert database.read(adopted, "health") == "ready"


def test_a_cluster_that_was_never_heard_of_is_not_shown_as_well(
    database, cluster, adopted
):
    ingest(database, adopted, status=ready_status(), version="100")
    hear(database, cluster, minutes_ago=10)
    database.sql("UPDATE vworkspace_watch_lease SET last_contact = NULL")

    mark_stale(database)

    assert database.read(adopted, "health") == "unknown"


def test_a_watch_that_resumes_without_news_brings_the_health_back(
    database, cluster, adopted
):
    ingest(database, adopted, status=ready_status(message="It runs."), version="100")
    hear(database, cluster, minutes_ago=10)
    mark_stale(database)
    hear(database, cluster, minutes_ago=0)

    mark_stale(database)

    stored = database.read(adopted, "health", "health_message")
    assert (stored["health"], stored["health_message"]) == ("ready", "It runs.")


def test_a_cluster_heard_of_lately_keeps_its_health(database, cluster, adopted):
    ingest(database, adopted, status=ready_status(), version="100")
    hear(database, cluster, minutes_ago=1)

    mark_stale(database)

    assert database.read(adopted, "health") == "ready"


def test_each_cluster_has_its_own_limit(database, cluster, adopted):
    ingest(database, adopted, status=ready_status(), version="100")
    hear(database, cluster, minutes_ago=3)
    database.sql(
        "UPDATE vworkspace_cluster SET stale_after = 600 WHERE id = %s", cluster.id
    )

    mark_stale(database)
    patient = database.read(adopted, "health")
    database.sql(
        "UPDATE vworkspace_cluster SET stale_after = 120 WHERE id = %s", cluster.id
    )
    mark_stale(database)

    assert patient == "ready"
    assert database.read(adopted, "health") == "unknown"


def test_what_somebody_has_locked_is_marked_the_next_time_and_not_waited_for(
    database, cluster, make_instance, adopted
):
    other = adopt(database, make_instance("other"))
    for each in (adopted, other):
        ingest(database, each, status=ready_status(), version="100")
    hear(database, cluster, minutes_ago=10)

    with database.transaction() as env:
        env.cr.execute(
            "SELECT FROM vworkspace_application_instance WHERE id = %s FOR UPDATE",
            [adopted.id],
        )
        mark_stale(database)
    assert database.read(other, "health") == "unknown"
    assert database.read(adopted, "health") == "ready"

    mark_stale(database)
    assert database.read(adopted, "health") == "unknown"


# === CLUSTERS THAT DO NOT ANSWER === #


def test_records_of_a_cluster_that_does_not_answer_say_so_until_it_does(
    database, adopted
):
    ingest(database, adopted, status=ready_status(message="It runs."), version="100")

    unreachable(database, adopted, "No answer within 5 s.")
    silent = database.read(adopted, "health", "health_message")
    reachable(database, adopted)

    assert silent["health"] == "unknown"
    assert silent["health_message"] == "No answer within 5 s."
    heard = database.read(adopted, "health", "health_message")
    assert (heard["health"], heard["health_message"]) == ("ready", "It runs.")


def test_the_cron_does_not_bring_back_the_health_of_what_does_not_answer(
    database, cluster, adopted
):
    ingest(database, adopted, status=ready_status(), version="100")
    hear(database, cluster, minutes_ago=0)
    unreachable(database, adopted, "No answer.")

    mark_stale(database)

    assert database.read(adopted, "health") == "unknown"
    reachable(database, adopted)


def test_a_list_says_that_the_cluster_answers(database, adopted):
    ingest(database, adopted, status=ready_status(), version="100")
    unreachable(database, adopted, "No answer.")

    ingest(
        database, adopted, status=ready_status(), version="100", listed_version="101"
    )

    assert database.read(adopted, "health") == "ready"


# === WHO IS TOLD === #


def test_open_views_are_told_ids_and_nothing_else(database, adopted):
    database.sql("DELETE FROM bus_bus")

    ingest(database, adopted, status=ready_status(message="A secret."), version="100")

    messages = [
        json.loads(text) for (text,) in database.sql("SELECT message FROM bus_bus")
    ]
    assert messages == [
        {
            "type": "vworkspace_push/updated",
            "payload": {"model": adopted._name, "ids": adopted.ids},
        }
    ]


def test_of_very_many_it_is_told_that_any_may_have_changed(
    database, adopted, monkeypatch
):
    from odoo.addons.vworkspace_push import const

    monkeypatch.setattr(const, "BUS_MAX_IDS", 0)
    database.sql("DELETE FROM bus_bus")

    ingest(database, adopted, status=ready_status(), version="100")

    ((text,),) = database.sql("SELECT message FROM bus_bus")
    payload = {"model": adopted._name, "ids": [], "any": True}
    assert json.loads(text)["payload"] == payload


def test_a_replay_tells_nobody(database, adopted):
    ingest(database, adopted, status=ready_status(), version="100")
    database.sql("DELETE FROM bus_bus")

    ingest(database, adopted, status=ready_status(), version="100")

    assert database.sql("SELECT message FROM bus_bus") == []


def test_what_nothing_shows_is_written_and_tells_nobody(database, adopted):
    status = ready_status()
    ingest(database, adopted, status=status, version="100")
    database.sql("DELETE FROM bus_bus")

    status["lastReconcileTime"] = "2026-05-28T11:00:00Z"
    ingest(database, adopted, status=status, version="101")

    assert database.read(adopted, "observed_resource_version") == "101"
    assert database.sql("SELECT message FROM bus_bus") == []


@pytest.mark.parametrize(
    "changed",
    [
        {"conditions": [condition("Ready", "True", message="It still runs.")]},
        {"conditions": [condition("Ready", "True"), condition("Blocked", "False")]},
        {"conditions": []},
        {"endpoints": [{"name": "web", "url": "https://other.example.com/"}]},
        {"endpoints": []},
        {"observedGeneration": 2},
    ],
    ids=["message", "condition", "no condition", "endpoint", "no endpoint", "seen"],
)
def test_whatever_is_shown_is_told_when_it_changes(database, adopted, changed):
    status = ready_status(message="It runs.")
    ingest(database, adopted, status=status, version="100")
    database.sql("DELETE FROM bus_bus")

    ingest(database, adopted, status={**status, **changed}, version="101")

    ((text,),) = database.sql("SELECT message FROM bus_bus")
    assert json.loads(text)["payload"]["ids"] == adopted.ids


def test_what_changes_in_one_transaction_is_told_with_one_message(
    database, make_instance, adopted
):
    from odoo.addons.vworkspace_push.status import sink

    other = adopt(database, make_instance("other"))
    cluster_id = cluster_of(database, adopted)
    database.sql("DELETE FROM bus_bus")

    with read_committed(database) as env:
        for each in (other, adopted):
            sink.ingest(env, cluster_id, [report(each, status=ready_status())])

    ((text,),) = database.sql("SELECT message FROM bus_bus")
    assert json.loads(text)["payload"]["ids"] == sorted([adopted.id, other.id])


def test_who_reads_on_in_the_same_transaction_reads_what_was_written(database, adopted):
    from odoo.addons.vworkspace_push.status import sink

    cluster_id = cluster_of(database, adopted)
    with read_committed(database) as env:
        record = env[adopted._name].browse(adopted.ids)
        before = (record.health, len(record.condition_ids))
        sink.ingest(env, cluster_id, [report(adopted, status=ready_status())])

        assert before == (False, 0)
        assert (record.health, len(record.condition_ids)) == ("ready", 1)


# === FIXTURES AND HELPERS === #


@pytest.fixture
def adopted(database, make_instance):
    """A record that was delivered as version 10 of an object."""
    return adopt(database, make_instance())


def adopt(database, instance):
    database.sql(
        """UPDATE vworkspace_application_instance
              SET uid = %s, resource_version = '10', delivery_state = 'applied'
            WHERE id = %s""",
        uid_of(instance),
        instance.id,
    )
    return instance


def uid_of(instance):
    return f"uid-{instance.id}"


def report(instance, *, status, version="100", uid=None, generation=1, deleted=False):
    from odoo.addons.vworkspace_push.status.sink import Report

    metadata = {
        "uid": uid or uid_of(instance),
        "name": "wiki",
        "resourceVersion": version,
        "generation": generation,
    }
    obj = {"kind": KIND, "metadata": metadata, "status": status}
    return Report.from_object(obj, deleted=deleted)


def ingest(database, instance, *, listed_version=None, listed_at=None, **values):
    from odoo.addons.vworkspace_push.status import sink

    def run(env, cluster_id):
        return sink.ingest(
            *(env, cluster_id, [report(instance, **values)]),
            listed_version=listed_version,
            listed_at=listed_at,
        )

    return in_transaction(database, run, cluster_of(database, instance))


def census(database, instance, *, present, version):
    from odoo.addons.vworkspace_push.status import sink

    with database.transaction() as env:
        namespace = env[instance._name].browse(instance.ids).namespace_id.name
    cluster_id = cluster_of(database, instance)
    return in_transaction(
        *(database, sink.missing, cluster_id, KIND, namespace, present, version)
    )


def confirm(database, instance, absent):
    from odoo.addons.vworkspace_push.status import sink

    in_transaction(database, sink.gone, cluster_of(database, instance), absent)


def unreachable(database, instance, message):
    from odoo.addons.vworkspace_push.status import sink

    cluster_id = cluster_of(database, instance)
    in_transaction(database, sink.unreachable, cluster_id, message)


def reachable(database, instance):
    from odoo.addons.vworkspace_push.status import sink

    in_transaction(database, sink.reachable, cluster_of(database, instance))


def mark_stale(database):
    from odoo.addons.vworkspace_push.status import sink

    in_transaction(database, sink.mark_stale)


def in_transaction(database, function, *arguments):
    """Run a function of the sink as the addon does."""
    from odoo.addons.vworkspace_push import transactions

    return transactions.in_transaction(database.registry, function, *arguments)


@contextmanager
def read_committed(database):
    """Yield an environment as the addon's short transactions have it."""
    with database.transaction() as env:
        env.cr.execute("ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED")
        yield env


def waits_for_a_lock(database):
    ((count,),) = database.sql(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return count > 0


def statements(database, instances):
    """Return how many statements it takes to store one report of each."""
    from odoo.addons.vworkspace_push.status import sink

    cluster_id = cluster_of(database, instances[0])
    reports = [report(each, status=degraded_status()) for each in instances]
    with read_committed(database) as env:
        env.flush_all()
        before = env.cr.sql_log_count
        sink.ingest(env, cluster_id, reports)
        return env.cr.sql_log_count - before


def statements_of_end(database, instances):
    """Return how many statements it takes to store that all of these are gone."""
    from odoo.addons.vworkspace_push.status import sink

    cluster_id = cluster_of(database, instances[0])
    absent = [sink.Missing(KIND, "", "", uid_of(each)) for each in instances]
    with read_committed(database) as env:
        env.flush_all()
        before = env.cr.sql_log_count
        sink.gone(env, cluster_id, absent)
        env.flush_all()
        return env.cr.sql_log_count - before


def lose(database, instance, *, minutes_ago=1):
    """Let a record's object be gone, as was confirmed that long ago."""
    from odoo.addons.vworkspace_push.status import sink

    confirm(database, instance, [sink.Missing(KIND, "", "", uid_of(instance))])
    age(database, instance, status_as_of=60 * minutes_ago)


def intend(database, instance):
    """Let there be an intent that was not applied yet."""
    with database.transaction() as env:
        record = env[instance._name].browse(instance.ids)
        revision = env["vworkspace.revision"]._add(
            [
                {
                    "res_model": record._name,
                    "res_id": record.id,
                    "company_id": record.company_id.id,
                    "number": 1,
                    "kind": "deploy",
                    "user_id": env.uid,
                    "manifest": "{}",
                    "desired": None,
                }
            ]
        )
        record._writer().revision_id = revision


def seen(database, instance):
    """Return what the audit trail says was seen of the record's object, in order."""
    rows = database.sql(
        """SELECT outcome FROM vworkspace_audit_entry
            WHERE action = 'observe' AND res_model = %s AND res_id = %s ORDER BY id""",
        instance._name,
        instance.id,
    )
    return [outcome for (outcome,) in rows]


def age(database, instance, **seconds):
    """Let times of a record be that many seconds ago."""
    for column, count in seconds.items():
        database.sql(
            f"UPDATE vworkspace_application_instance SET {column} ="  # noqa: S608
            " now() AT TIME ZONE 'UTC' - %s * interval '1 second' WHERE id = %s",
            count,
            instance.id,
        )


def cluster_of(database, instance):
    (cluster_id, _name) = database.read(instance, "cluster_id")
    return cluster_id


def hear(database, cluster, *, minutes_ago):
    """Let the cluster have been heard of that long ago, and its records then too."""
    database.sql(
        """INSERT INTO vworkspace_watch_lease (cluster_id, epoch, last_contact)
                VALUES (%s, 0, now() AT TIME ZONE 'UTC' - %s * interval '1 minute')
           ON CONFLICT (cluster_id)
                    DO UPDATE SET last_contact = EXCLUDED.last_contact""",
        cluster.id,
        minutes_ago,
    )
    database.sql(
        """UPDATE vworkspace_application_instance
              SET status_as_of = now() AT TIME ZONE 'UTC' - %s * interval '1 minute'
            WHERE cluster_id = %s AND status_as_of IS NOT NULL""",
        minutes_ago,
        cluster.id,
    )


def conditions(database, instance):
    with database.transaction() as env:
        record = env[instance._name].browse(instance.ids)
        return {c.type: c.status for c in record.condition_ids}


def row_versions(database, instance):
    """Return what PostgreSQL changes at each write of the record and what it owns."""
    (record,) = database.sql(
        "SELECT xmin FROM vworkspace_application_instance WHERE id = %s", instance.id
    )
    endpoints = database.sql(
        "SELECT id, xmin FROM vworkspace_endpoint WHERE instance_id = %s", instance.id
    )
    return record, condition_versions(database, instance), endpoints


def condition_versions(database, instance):
    rows = database.sql(
        "SELECT type, xmin FROM vworkspace_condition WHERE instance_id = %s",
        instance.id,
    )
    return dict(rows)
