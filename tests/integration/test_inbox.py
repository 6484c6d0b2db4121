"""What waits between the streams and the writer: bounded, in order, nothing lost."""

import threading
from datetime import datetime

import pytest

from tests.live_objects import condition
from tests.waiting import eventually

CLUSTER = 7
KEY = ("ApplicationInstance", "demo")
OURS = "our-database"
ASKED_AT = datetime(2026, 5, 28)
LARGE = 15_000  # characters, of which two are more than the inbox has room for


def test_the_last_word_about_an_object_wins_whatever_its_version(inbox, put, versions):
    put("a", "9")
    put("a", "5")

    assert versions(inbox.take(0)) == {"a": "5"}


def test_a_position_waits_with_what_it_covers(inbox, put):
    put("a", "5")
    put("b", "6")

    batch = inbox.take(0)[CLUSTER]

    assert batch.positions == {KEY: "6"}
    assert inbox.take_positions() == {}


def test_a_bookmark_moves_the_position_without_waking_the_writer(inbox, running):
    inbox.move(CLUSTER, KEY, "8", ended=running)

    assert inbox.take(0) == {}
    assert inbox.take_positions() == {CLUSTER: {KEY: "8"}}


def test_positions_stay_while_their_reports_are_written(inbox, put, running):
    put("a", "5")
    inbox.take(0)
    inbox.move(CLUSTER, KEY, "6", ended=running)

    assert inbox.take_positions() == {}

    inbox.finish(CLUSTER)
    assert inbox.take_positions() == {CLUSTER: {KEY: "6"}}


def test_what_is_given_back_yields_to_what_came_since(inbox, put, versions):
    put("a", "5")
    put("b", "5")
    taken = inbox.take(0)[CLUSTER]
    put("a", "6")

    inbox.give_back(CLUSTER, taken)

    assert versions(inbox.take(0)) == {"a": "6", "b": "5"}


def test_a_full_inbox_holds_the_stream_back_until_there_is_room(inbox, put, report):
    for number in range(3):
        put(f"object-{number}", "1")
    done = threading.Event()

    def one_more():
        put("one-more", "1")
        done.set()

    thread = threading.Thread(target=one_more)
    thread.start()
    assert not done.wait(0.2)
    assert inbox.depth == 3

    taken = inbox.take(0)
    assert not done.wait(0.2)  # what is being written still takes room
    inbox.finish(CLUSTER)

    assert done.wait(5)
    thread.join()
    assert len(taken[CLUSTER].entries) == 3
    assert list(inbox.take(0)[CLUSTER].entries) == ["one-more"]


def test_an_inbox_with_too_much_text_holds_the_stream_back(inbox, put):
    put("large", "1", message="x" * LARGE)
    put("larger-than-all-that-may-wait", "1", message="x" * 2 * LARGE)
    results = []
    thread = threading.Thread(target=lambda: results.append(put("small", "1")))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()

    taken = inbox.take(0)
    inbox.finish(CLUSTER)

    eventually(lambda: results, what="the stream to go on", equals=[True])
    thread.join()
    assert list(taken[CLUSTER].entries) == ["large", "larger-than-all-that-may-wait"]
    assert list(inbox.take(0)[CLUSTER].entries) == ["small"]


def test_what_is_said_again_shorter_takes_the_place_of_what_was_long(inbox, put):
    put("a", "1", message="x" * 2 * LARGE)

    assert put("a", "2", message="x" * LARGE)
    assert put("b", "1")


def test_what_is_taken_in_parts_and_given_back_counts_as_before(inbox, put):
    for uid in ("a", "b", "c"):
        put(uid, "1", message="x" * 1_000)
    batch = inbox.take(0)[CLUSTER]
    whole = batch.size

    part = next(batch.parts(1))

    assert (part.size, batch.size) == (whole // 3, whole - whole // 3)
    inbox.give_back(CLUSTER, part)
    inbox.give_back(CLUSTER, batch)
    inbox.finish(CLUSTER)
    assert inbox.take(0)[CLUSTER].size == whole


def test_a_list_that_the_inbox_has_no_room_for_comes_bit_by_bit(inbox, put_list):
    uids = [f"object-{number}" for number in range(5)]
    thread = threading.Thread(target=lambda: put_list("9", *uids))
    thread.start()
    eventually(lambda: inbox.depth, what="the inbox to be full", equals=3)

    first = inbox.take(0)[CLUSTER]
    inbox.finish(CLUSTER)
    thread.join(5)
    last = inbox.take(0)[CLUSTER]

    assert (list(first.entries), list(last.entries)) == (uids[:3], uids[3:])
    assert (first.censuses, first.positions) == ({}, {})
    assert last.censuses[KEY].uids == frozenset(uids)
    assert last.positions == {KEY: "9"}


def test_a_list_that_ends_half_way_says_nothing_of_what_there_is(
    inbox, put_list, running
):
    results = []
    uids = [f"object-{number}" for number in range(5)]
    thread = threading.Thread(target=lambda: results.append(put_list("9", *uids)))
    thread.start()
    eventually(lambda: inbox.depth, what="the inbox to be full", equals=3)

    running.set()

    eventually(lambda: results, what="the stream to end", equals=[None])
    thread.join()
    batch = inbox.take(0)[CLUSTER]
    assert (batch.censuses, batch.positions) == ({}, {})


def test_a_full_inbox_takes_a_newer_word_about_what_waits(inbox, put, versions):
    for number in range(3):
        put(f"object-{number}", "1")

    assert put("object-1", "2")

    assert versions(inbox.take(0))["object-1"] == "2"


def test_a_stream_that_ends_does_not_wait_for_room(inbox, put, report, running):
    for number in range(3):
        put(f"object-{number}", "1")
    results = []
    thread = threading.Thread(
        target=lambda: results.append(
            inbox.put(CLUSTER, KEY, report("late", "1"), ended=running)
        )
    )
    thread.start()

    running.set()

    eventually(lambda: results, what="the stream to end", equals=[False])
    thread.join()
    assert "late" not in inbox.take(0)[CLUSTER].entries


def test_what_a_list_brought_is_known_to_be_of_that_list(inbox, put, put_list):
    listing = put_list("3", "a", "b")
    put("a", "4")

    batch = inbox.take(0)[CLUSTER]

    assert batch.entries["a"].listing == batch.entries["b"].listing == listing
    assert batch.entries["a"].report.observed.resource_version == "4"
    assert batch.censuses[KEY].uids == {"a", "b"}
    assert batch.positions == {KEY: "4"}


def test_parts_of_a_batch_leave_lists_and_positions_to_the_last(inbox, put_list):
    put_list("3", "a", "b", "c")
    batch = inbox.take(0)[CLUSTER]

    parts = [
        (list(part.entries), bool(part.censuses), bool(part.positions))
        for part in batch.parts(2)
    ]

    assert parts == [(["a", "b"], False, False), (["c"], True, True)]


def test_an_unclaimed_report_is_offered_again_until_its_time_is_up(inbox, put, clock):
    put("a", "5", signed=True)
    entries = list(inbox.take(0)[CLUSTER].entries.values())
    inbox.keep_unclaimed(CLUSTER, entries, ours=OURS)
    inbox.finish(CLUSTER)
    assert inbox.expects_claims(CLUSTER, ours=OURS)

    clock.now += 1.0
    assert "a" in inbox.take(0)[CLUSTER].entries

    clock.now += 20.0
    inbox.take(0)
    inbox.keep_unclaimed(CLUSTER, entries, ours=OURS)
    assert not inbox.expects_claims(CLUSTER, ours="another-database")


def test_a_claimed_report_is_waited_for_no_more(inbox, put):
    put("a", "5", signed=True)
    entries = list(inbox.take(0)[CLUSTER].entries.values())
    inbox.keep_unclaimed(CLUSTER, entries, ours=OURS)

    inbox.claimed(CLUSTER, ["a"])

    assert not inbox.expects_claims(CLUSTER, ours=OURS)


def test_an_unclaimed_report_yields_to_a_newer_one(inbox, put, clock, versions):
    put("a", "5")
    entries = list(inbox.take(0)[CLUSTER].entries.values())
    put("a", "6")
    inbox.keep_unclaimed(CLUSTER, entries, ours=OURS)
    clock.now += 1.0

    assert versions(inbox.take(0)) == {"a": "6"}
    assert inbox.take(0) == {}


def test_a_large_report_of_a_strangers_object_is_not_kept(inbox, put, clock):
    put("a", "5")
    put("b", "5", messages=3, message="x" * 32_000)
    entries = list(inbox.take(0)[CLUSTER].entries.values())
    inbox.keep_unclaimed(CLUSTER, entries, ours=OURS)
    inbox.finish(CLUSTER)

    clock.now += 1.0

    assert list(inbox.take(0)[CLUSTER].entries) == ["a"]


def test_what_an_odoo_wrote_is_kept_whole_and_of_others_only_the_status(report):
    assert report("a", "1", signed=True).object()["metadata"]["uid"] == "a"
    assert report("b", "1").object() == {}


def test_a_forgotten_cluster_leaves_nothing(inbox, put):
    put("a", "5")

    inbox.forget(CLUSTER)

    assert inbox.take(0) == {}
    assert inbox.take_positions() == {}


# === FIXTURES === #


@pytest.fixture
def inbox(odoo_in_process, clock):
    from odoo.addons.vworkspace_push.status.inbox import Inbox

    return Inbox(limit=3, max_bytes=LARGE + 10_000, clock=clock)


@pytest.fixture
def running():
    """What a stream is told its end by; not set."""
    return threading.Event()


@pytest.fixture
def report(odoo_in_process):
    from odoo.addons.vworkspace_push.kube import resources
    from odoo.addons.vworkspace_push.status.sink import Report

    def make(uid, version, *, signed=False, message="", messages=1):
        annotations = {resources.DATABASE_ANNOTATION: OURS} if signed else {}
        metadata = {"uid": uid, "name": uid, "resourceVersion": version}
        conditions = [
            condition(f"Type{number}", "True", message=message)
            for number in range(messages)
        ]
        obj = {
            "metadata": {**metadata, "annotations": annotations},
            "status": {"conditions": conditions},
        }
        return Report.from_object(obj, kind="ApplicationInstance")

    return make


@pytest.fixture
def put(inbox, report, running):
    def run(uid, version, **options):
        made = report(uid, version, **options)
        return inbox.put(CLUSTER, KEY, made, ended=running)

    return run


@pytest.fixture
def put_list(inbox, report, running):
    from odoo.addons.vworkspace_push.status.inbox import Census, Listing

    def run(version, *uids):
        listing = Listing(version, ASKED_AT)
        census = Census(*KEY, uids=frozenset(uids), listing=listing)
        reports = [report(uid, "1") for uid in uids]
        put = inbox.put_list(CLUSTER, reports, census, ended=running)
        return listing if put else None

    return run


@pytest.fixture
def versions():
    def read(taken):
        return {
            uid: entry.report.observed.resource_version
            for uid, entry in taken[CLUSTER].entries.items()
        }

    return read
