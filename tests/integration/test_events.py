"""What an operator tells of by itself: a part of a status, without a version.

It comes by the same door as whole reports, before or after them, and more than once.
"""

import pytest

from tests.integration.test_sink import (
    adopt,
    cluster_of,
    conditions,
    confirm,
    in_transaction,
    ingest,
    row_versions,
    uid_of,
)
from tests.integration.test_transitions import clear, transitions
from tests.live_objects import SINCE, condition, ready_status

BEFORE = "2026-05-28T09:00:00Z"
LATER = "2026-05-28T10:10:00Z"
LATEST = "2026-05-28T10:20:00Z"


def test_what_is_newer_is_shown_and_the_rest_stays(database, adopted):
    ingest(database, adopted, status=ready_status(message="It runs."), version="100")
    clear(database)

    assert tell(database, adopted, degraded(LATER)) == 1

    assert conditions(database, adopted) == {"Ready": "True", "Degraded": "True"}
    stored = database.read(
        adopted, "health", "health_message", "observed_resource_version"
    )
    assert (stored["health"], stored["health_message"]) == ("degraded", "One is gone.")
    assert stored["observed_resource_version"] == "100"
    assert [t["type"] for t in transitions(database, adopted)] == ["Degraded", "Health"]
    assert database.read(adopted, "endpoint_url") == "https://wiki.example.com/"


def test_a_replay_writes_nothing(database, adopted):
    ingest(database, adopted, status=ready_status(), version="100")
    tell(database, adopted, degraded(LATER))
    before = row_versions(database, adopted)

    assert tell(database, adopted, degraded(LATER), degraded(LATER)) == 0

    assert row_versions(database, adopted) == before


@pytest.mark.parametrize("since", [BEFORE, SINCE])
def test_what_is_older_or_as_old_as_what_is_known_is_ignored(database, adopted, since):
    ingest(database, adopted, status=ready_status(), version="100")

    told = condition("Ready", "False", reason="Crash", since=since)

    assert tell(database, adopted, told) == 0
    assert database.read(adopted, "health") == "ready"


def test_what_a_whole_report_has_no_more_is_not_brought_back(database, adopted):
    tell(database, adopted, degraded(SINCE))
    status = {
        "observedGeneration": 1,
        "conditions": [condition("Ready", "True", since=LATER)],
    }
    ingest(database, adopted, status=status, version="100")

    assert tell(database, adopted, degraded(SINCE)) == 0

    assert conditions(database, adopted) == {"Ready": "True"}


def test_of_one_generation_and_the_next_the_next_stays(database, adopted):
    ingest(database, adopted, status=ready_status(), version="100")
    first = {**degraded(LATEST), "observedGeneration": 1}
    second = {**condition("Degraded", "False", since=LATEST), "observedGeneration": 2}

    assert tell(database, adopted, second, generation=2) == 1
    assert tell(database, adopted, first, generation=1) == 0

    assert conditions(database, adopted)["Degraded"] == "False"
    assert database.read(adopted, "observed_generation") == 2


@pytest.mark.parametrize("newest_first", [False, True])
def test_the_order_within_a_batch_does_not_matter(database, adopted, newest_first):
    ingest(database, adopted, status=ready_status(), version="100")
    told = [degraded(LATER), condition("Degraded", "False", since=LATEST)]

    tell(database, adopted, *(reversed(told) if newest_first else told))

    assert conditions(database, adopted)["Degraded"] == "False"
    assert database.read(adopted, "health") == "ready"


def test_the_next_whole_report_is_the_truth_again(database, adopted):
    ingest(database, adopted, status=ready_status(), version="100")
    tell(database, adopted, degraded(LATER))

    ingest(database, adopted, status=ready_status(), version="99")
    assert database.read(adopted, "health") == "degraded"  # its guard is as it was

    ingest(database, adopted, status=ready_status(), version="101")
    assert database.read(adopted, "health") == "ready"
    assert conditions(database, adopted) == {"Ready": "True"}


def test_a_condition_that_does_not_say_since_when_is_never_newer(database, adopted):
    ingest(database, adopted, status=ready_status(), version="100")

    assert tell(database, adopted, condition("Ready", "False", since=None)) == 0
    assert tell(database, adopted, condition("Degraded", "True", since=None)) == 0


def test_an_object_that_no_record_has_and_one_that_is_gone_are_ignored(
    database, adopted, make_instance
):
    gone = adopt(database, make_instance("gone"))
    confirm(database, gone, [missing(gone)])

    assert tell(database, adopted, degraded(LATER), uid="nobodys") == 0
    assert tell(database, adopted, degraded(LATER), uid="") == 0
    assert tell(database, gone, degraded(LATER)) == 0

    assert database.read(gone, "delivery_state") == "lost"
    assert conditions(database, gone) == {}


@pytest.mark.parametrize(
    "told", [None, 7, ["Ready"], [{"type": "Ready"}], {"Ready": "True"}]
)
def test_what_makes_no_sense_changes_nothing(database, adopted, told):
    ingest(database, adopted, status=ready_status(), version="100")
    reference = {"uid": uid_of(adopted), "generation": "1"}

    assert merge(database, adopted, (reference, told)) == 0


# === FIXTURES AND HELPERS === #


@pytest.fixture
def adopted(database, make_instance):
    """A record of an object of which nothing was reported yet."""
    return adopt(database, make_instance())


def degraded(since):
    return condition("Degraded", "True", message="One is gone.", since=since)


def tell(database, instance, *told, uid=None, generation=1):
    """Have the operator tell of conditions, in an event each; return what changed."""
    uid = uid_of(instance) if uid is None else uid
    reference = {"name": "wiki", "uid": uid, "generation": generation}
    return merge(database, instance, *((reference, [each]) for each in told))


def merge(database, instance, *events):
    """Hand events to the sink: what each is about, and its conditions."""
    from odoo.addons.vworkspace_push.status import sink

    reports = [
        sink.Report.from_object(
            {"metadata": reference, "status": {"conditions": told}},
            kind="ApplicationInstance",
        )
        for reference, told in events
    ]
    return in_transaction(database, sink.merge, cluster_of(database, instance), reports)


def missing(instance):
    from odoo.addons.vworkspace_push.status.sink import Missing

    return Missing("ApplicationInstance", "", "", uid_of(instance))
