"""Each cluster has a lane: what holds one up holds up nobody else."""

import contextlib
import select
import socket
import threading
from datetime import UTC, datetime, timedelta
from socketserver import BaseRequestHandler, ThreadingTCPServer
from urllib.parse import urlsplit

import pytest

from tests.deliveries import (
    INSTANCE,
    TABLE,
    act,
    become_due,
    count_objects,
    make_pending,
    place_in,
    states,
)
from tests.integration.conftest import activate, replace_token, spoil
from tests.registration import Spy
from tests.unit.fakes import FakeServer, make_certificate, status

COUNT = 12  # records, more than are delivered at once at first


# === A CLUSTER THAT IS AWAY === #


def test_the_lane_of_a_cluster_that_is_away_opens_and_what_is_due_waits_unwritten(
    database, gated, gate, make_instance, monkeypatch
):
    instances = [make_instance(name=f"wiki-{n}", **gated.place) for n in range(COUNT)]
    make_pending(database, *instances)
    gate.close()
    spy = Spy(monkeypatch)

    database.run_cron("ir_cron_deliver")

    assert [path for _method, path, *_rest in spy.sent].count("/version") == 1
    lane = read_lane(database, gated.record)
    assert lane["failures"] == 1
    assert now() < lane["retry_at"] <= now() + timedelta(seconds=6)
    assert lane["message"]
    tried = [i for i in instances if database.read(i, "delivery_attempts")]
    waiting = [i for i in instances if i not in tried]
    assert 1 <= len(tried) <= 4
    assert states(database, *waiting) == ["pending"] * len(waiting)
    sentence = database.read(waiting[0], "waiting_for")
    assert "to answer: it is tried again at" in sentence
    assert database.read(gated.record, "lane_state") == "waiting"


def test_while_it_is_open_nothing_is_sent_or_written(
    database, gated, gate, make_instance, monkeypatch
):
    instances = [make_instance(name=f"wiki-{n}", **gated.place) for n in range(3)]
    make_pending(database, *instances)
    gate.close()
    database.run_cron("ir_cron_deliver")
    become_due(database, *instances)
    before = row_versions(database, instances)
    spy = Spy(monkeypatch)

    database.run_cron("ir_cron_deliver")

    assert spy.sent == []
    assert row_versions(database, instances) == before


def test_a_user_who_deploys_meanwhile_does_not_wait_for_it(
    database, gated, gate, make_instance, monkeypatch
):
    first, second = (make_instance(name=n, **gated.place) for n in ("one", "two"))
    gate.close()
    act(database, first, "action_deploy")
    retry_now(database, gated.record)
    spy = Spy(monkeypatch)

    act(database, second, "action_deploy")

    assert spy.sent == []  # not even a probe: that is the cron's
    assert states(database, first, second) == ["failed", "pending"]


def test_each_failed_probe_doubles_the_wait(database, gated, gate, make_instance):
    from odoo.addons.vworkspace_push import const

    instance = make_instance(**gated.place)
    gate.close()
    act(database, instance, "action_deploy")
    waits = []

    for _probe in range(5):
        retry_now(database, gated.record)
        become_due(database, instance)
        database.run_cron("ir_cron_deliver")
        lane = read_lane(database, gated.record)
        waits.append((lane["retry_at"] - now()).total_seconds())

    assert read_lane(database, gated.record)["failures"] == 6
    assert database.read(instance, "delivery_attempts") == 1
    for number, wait in enumerate(waits, start=1):
        longest = min(const.LANE_MAX, const.LANE_FIRST * 2**number)
        assert longest / 2 - 2 <= wait <= longest + 1, f"probe {number}"


def test_a_probe_that_is_answered_closes_the_lane_and_everything_is_delivered(
    database, gated, gate, make_instance, control_plane, namespace, monkeypatch
):
    instances = [make_instance(name=f"wiki-{n}", **gated.place) for n in range(COUNT)]
    make_pending(database, *instances)
    gate.close()
    database.run_cron("ir_cron_deliver")
    gate.open()
    retry_now(database, gated.record)
    become_due(database, *instances)
    spy = Spy(monkeypatch)

    database.run_cron("ir_cron_deliver")

    assert states(database, *instances) == ["applied"] * COUNT
    assert count_objects(control_plane, namespace) == COUNT
    assert [path for _method, path, *_rest in spy.sent].count("/version") == 1
    assert read_lane(database, gated.record)["failures"] == 0
    assert database.read(gated.record, "lane_state") == "open"


def test_one_cut_connection_alone_does_not_open_the_lane(
    database, gated, gate, make_instance
):
    cut, other = (make_instance(name=name, **gated.place) for name in ("one", "two"))
    gate.cut(1)

    act(database, cut, "action_deploy")
    act(database, other, "action_deploy")

    assert states(database, cut, other) == ["failed", "applied"]
    assert read_lane(database, gated.record) is None
    become_due(database, cut)
    database.run_cron("ir_cron_deliver")
    assert states(database, cut) == ["applied"]


def test_other_settings_close_the_lane_at_once(
    database, gated, gate, make_instance, control_plane
):
    instance = make_instance(**gated.place)
    gate.close()
    act(database, instance, "action_deploy")
    assert read_lane(database, gated.record)["failures"] == 1
    gate.open()

    replace_token(database, gated.record, control_plane.service_account_token())

    assert read_lane(database, gated.record) is None
    database.run_cron("ir_cron_deliver")
    assert states(database, instance) == ["applied"]


def test_an_open_lane_is_one_clusters_own(
    database, gated, gate, make_instance, namespace
):
    gone, fine = make_instance(**gated.place), make_instance(name="fine")
    gate.close()
    act(database, gone, "action_deploy")

    act(database, fine, "action_deploy")

    assert states(database, gone, fine) == ["failed", "applied"]


def test_a_cluster_that_hangs_does_not_delay_another_ones_delivery(
    database, cluster, gated, gate, make_instance, monkeypatch
):
    from odoo.addons.vworkspace_push.delivery import store

    hanging = [make_instance(name=f"wiki-{n}", **gated.place) for n in range(3)]
    fine = [make_instance(name=f"fine-{n}") for n in range(3)]
    stored, done = [], threading.Event()
    real_outcomes = store.outcomes

    def spy(env, batch, results):
        answer = real_outcomes(env, batch, results)
        stored.append(batch.cluster_id)
        if batch.cluster_id != gated.record.id:
            env.cr.postcommit.add(done.set)
        return answer

    monkeypatch.setattr(store, "outcomes", spy)
    # The one that hangs has waited longest, and its requests hang until the other's
    # outcome is committed.
    make_pending(database, *hanging)
    database.sql(
        f"UPDATE {TABLE} SET next_attempt_at = next_attempt_at"  # noqa: S608
        " - interval '1 minute' WHERE id = ANY(%s)",
        [instance.id for instance in hanging],
    )
    make_pending(database, *fine)
    gate.hold_until(done)

    database.run_cron("ir_cron_deliver")

    assert done.is_set()
    assert gate.held
    assert states(database, *fine) == ["applied"] * 3
    assert stored.index(cluster.id) < stored.index(gated.record.id)


# === A CLUSTER THAT ASKS FOR LESS === #


def test_a_server_that_asks_to_wait_is_left_alone_for_that_long(
    database, gated, make_instance, throttling_server
):
    instances = [make_instance(name=f"wiki-{n}", **gated.place) for n in range(COUNT)]
    make_pending(database, *instances)
    before = now()

    database.run_cron("ir_cron_deliver")

    lane = read_lane(database, gated.record)
    assert lane["failures"] == 0
    assert timedelta(seconds=27) <= lane["retry_at"] - before
    assert lane["retry_at"] <= now() + timedelta(seconds=27)
    tried = [i for i in instances if database.read(i, "delivery_attempts")]
    assert len(tried) <= 4
    for instance in tried:
        assert database.read(instance, "delivery_state") == "failed"
        due = database.read(instance, "next_attempt_at")
        assert due >= before + timedelta(seconds=27)
    asked = len(throttling_server.requests)
    become_due(database, *instances)
    database.run_cron("ir_cron_deliver")
    assert len(throttling_server.requests) == asked
    waiting = next(i for i in instances if i not in tried)
    assert "is tried again at" in database.read(waiting, "waiting_for")


def test_a_throttled_lane_goes_on_without_a_probe(
    database, gated, make_instance, throttling_server
):
    instance = make_instance(**gated.place)
    act(database, instance, "action_deploy")
    retry_now(database, gated.record)
    become_due(database, instance)

    database.run_cron("ir_cron_deliver")

    assert {request.method for request in throttling_server.requests} == {"PATCH"}
    assert database.read(instance, "delivery_attempts") == 2


# === A CREDENTIAL THAT IS REFUSED === #


def test_a_credential_that_is_refused_for_a_moment_only_stays_in_use(
    database, gated, make_instance, starting_server
):
    instances = [make_instance(name=f"wiki-{n}", **gated.place) for n in range(COUNT)]
    make_pending(database, *instances)
    before = now()

    database.run_cron("ir_cron_deliver")

    assert database.read(gated.record, "state") == "active"
    tried = [i for i in instances if database.read(i, "delivery_attempts")]
    assert 0 < len(tried) <= 4, "the others would be refused as well"
    for instance in tried:
        stored = database.read(instance, "delivery_state", "next_attempt_at")
        assert stored["delivery_state"] == "failed"
        assert stored["next_attempt_at"] <= before + timedelta(seconds=10)


# === HOW MANY AT ONCE === #


def test_the_limit_grows_by_one_for_each_round_in_which_few_calls_wait(limit):
    answer(limit, *[0.1] * 4)
    assert limit.now == 4

    answer(limit, 0.1)

    assert limit.now == 5
    answer(limit, *[0.1] * 1_000)
    assert limit.now == 8


def test_the_limit_stays_while_fewer_calls_are_under_way(limit):
    with limit.turn():
        for _call in range(1_000):
            limit.learn(0.1)

    assert limit.now == 4


def test_the_limit_halves_when_the_server_says_stop_and_grows_again(limit):
    answer(limit, *[0.1] * 1_000)

    halves = []
    for _time in range(6):
        limit.halve()
        halves.append(limit.now)

    assert halves == [4, 2, 1, 1, 1, 1]
    answer(limit, 0.1)
    assert limit.now == 2


def test_the_limit_falls_while_many_calls_wait_in_the_server(limit):
    answer(limit, *[0.1] * 20)
    before = limit.now

    answer(limit, *[1.0] * 5)

    assert 1 <= limit.now < before


def test_the_limit_grows_again_on_a_way_that_became_longer(limit):
    answer(limit, *[0.1] * 20)
    answer(limit, *[1.0] * 1_000)
    few = limit.now

    with limit.turn():
        for _call in range(100):
            limit.learn(1.0)  # alone: it is the way that takes so long
    answer(limit, *[1.0] * 20)

    assert few < limit.now


@pytest.mark.parametrize("batch", [COUNT, COUNT // 2], ids=["one lane", "two lanes"])
def test_as_many_calls_are_under_way_as_the_limit_allows(
    database, gated, make_instance, monkeypatch, batch
):
    from odoo.addons.vworkspace_push import const
    from odoo.addons.vworkspace_push.delivery import lanes
    from odoo.addons.vworkspace_push.kube import apply

    monkeypatch.setattr(const, "DELIVERY_BATCH", batch)
    monkeypatch.setattr(lanes, "MOST_AT_ONCE", 4)
    instances = [make_instance(name=f"wiki-{n}", **gated.place) for n in range(COUNT)]
    make_pending(database, *instances)
    together = threading.Barrier(4)  # passed by four at once alone
    under_way, most, lock = 0, 0, threading.Lock()
    real_apply = apply.apply

    def spy(*arguments, **keywords):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        together.wait(20)
        try:
            return real_apply(*arguments, **keywords)
        finally:
            with lock:
                under_way -= 1

    monkeypatch.setattr(apply, "apply", spy)
    database.run_cron("ir_cron_deliver")

    assert states(database, *instances) == ["applied"] * COUNT
    assert most == 4


def test_a_refused_connection_teaches_no_pace(database, gated, gate, make_instance):
    from odoo.addons.vworkspace_push.delivery import lanes

    instance = make_instance(**gated.place)
    gate.close()

    act(database, instance, "action_deploy")

    limit = lanes.limits.get((database.name, gated.record.id))
    assert states(database, instance) == ["failed"]
    assert limit._alone is None


# === WHO IS DUE === #


def test_those_who_wait_longest_come_first_and_many_have_two_lanes(
    database, make_cluster, make_instance, monkeypatch
):
    from odoo.addons.vworkspace_push import const
    from odoo.addons.vworkspace_push.delivery import deliver

    monkeypatch.setattr(const, "DELIVERY_BATCH", 2)
    few_at, many_at, paused = (place_in(database, make_cluster()) for _n in range(3))
    few = [make_instance(f"few-{n}", **few_at) for n in range(2)]
    many = [make_instance(f"many-{n}", **many_at) for n in range(3)]
    held = make_instance("held", **paused)
    make_pending(database, *few, *many, held)
    wait_since(database, few, 10)
    wait_since(database, many, 20)
    database.sql(
        "UPDATE vworkspace_cluster SET is_paused = TRUE WHERE id = %s",
        paused["cluster_id"],
    )

    with database.transaction() as env:
        due = deliver._due_lanes(env)

    first, second = many_at["cluster_id"], few_at["cluster_id"]
    ours = (first, second, paused["cluster_id"])
    due = [lane for lane in due if lane[0] in ours]
    assert due == [(first, 1), (second, 1), (first, 2)]


def test_a_batch_has_no_more_than_fits_into_memory(
    database, make_instance, monkeypatch
):
    from odoo.addons.vworkspace_push import const
    from odoo.addons.vworkspace_push.delivery import deliver

    large = [make_instance(f"large-{n}") for n in range(4)]
    make_pending(database, *large)
    with database.transaction() as env:
        record = env[INSTANCE].browse(large[0].id)
        cluster_id, length = record.cluster_id.id, len(record.intent_manifest)

    monkeypatch.setattr(const, "DELIVERY_BYTES", 2 * length + 10)
    assert deliver.deliver(database.registry, INSTANCE, cluster_id) == 2
    monkeypatch.setattr(const, "DELIVERY_BYTES", 1)
    assert deliver.deliver(database.registry, INSTANCE, cluster_id) == 1
    assert states(database, *large) == ["applied"] * 3 + ["pending"]


# === FIXTURES AND HELPERS === #


def wait_since(database, instances, minutes):
    database.sql(
        f"UPDATE {TABLE} SET next_attempt_at = next_attempt_at - %s * interval '1 min'"  # noqa: S608
        " WHERE id = ANY(%s)",
        minutes,
        [instance.id for instance in instances],
    )


class Gate(ThreadingTCPServer):
    """A way to a server that can be closed, cut or made to hang."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, target):
        super().__init__(("127.0.0.1", 0), _Passage)
        self.target = target
        self.url = f"https://127.0.0.1:{self.server_address[1]}"
        self.is_closed = False
        self.to_cut = 0
        self.until = None  # an event until which new connections hang
        self.held = 0
        self.passing = set()
        self.lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self):
        """End what is under way, and hang up on whoever comes."""
        self.is_closed = True
        self.cut(0)

    def open(self):
        self.is_closed = False

    def cut(self, count):
        """End what is under way, and hang up on the next `count` that come."""
        with self.lock:
            self.to_cut = count
            passing = list(self.passing)
        for client in passing:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def hold_until(self, event):
        """End what is under way; accept, and answer nothing before `event`."""
        self.until = event
        self.cut(0)

    def handle_error(self, request, client_address):
        """Connections that end suddenly are what this is for."""

    def stop(self):
        self.shutdown()
        self.close()
        self.server_close()
        self._thread.join(5)


class _Passage(BaseRequestHandler):
    def handle(self):
        gate = self.server
        with gate.lock:
            gate.to_cut -= 1
            if gate.is_closed or gate.to_cut >= 0:
                return
            gate.passing.add(self.request)
        if gate.until and not gate.until.is_set():
            gate.held += 1
            gate.until.wait(30)
        try:
            with socket.create_connection(gate.target) as target:
                self.pump(target)
        finally:
            with gate.lock:
                gate.passing.discard(self.request)

    def pump(self, target):
        other = {self.request: target, target: self.request}
        while True:
            for sock in select.select(other, [], [])[0]:
                if not (content := sock.recv(65_536)):
                    return
                other[sock].sendall(content)


class Gated:
    """A cluster behind the gate: its record, and values to deploy there."""

    def __init__(self, record, place):
        self.record = record
        self.place = {"cluster_id": record.id, "namespace_id": place.id}


@pytest.fixture
def gate(control_plane):
    server = urlsplit(control_plane.server)
    made = Gate((server.hostname, server.port))
    yield made
    made.stop()


@pytest.fixture
def gated(database, control_plane, namespace, gate):
    with database.transaction() as env:
        cluster = env["vworkspace.cluster"].create(
            {
                "name": f"Behind the gate {namespace}",
                "cluster_id": f"gated-{namespace}",
                "server_url": gate.url,
                "ca_certificate": control_plane.ca_pem,
                "token": control_plane.service_account_token(),
                "namespace_ids": [(0, 0, {"name": namespace})],
            }
        )
        place = cluster.namespace_ids
    activate(database, cluster)
    yield Gated(cluster, place)
    act(database, cluster, "action_pause")  # no other test is to deliver there


@pytest.fixture
def throttling_server(database, gated, tmp_path):
    """A server in the gated cluster's place that asks to wait 27 s."""
    with in_place_of(database, gated, tmp_path) as server:
        body = status(429, "TooManyRequests", "The server is busy.")
        server.otherwise = lambda handler: handler.reply(
            body, status=429, headers={"Retry-After": "27"}
        )
        yield server


@pytest.fixture
def starting_server(database, gated, tmp_path):
    """A server in the gated cluster's place that has no account yet, but has them all
    when it is asked for its version."""
    with in_place_of(database, gated, tmp_path) as server:
        body = status(401, "Unauthorized", "Unauthorized")
        server.otherwise = lambda handler: handler.reply(body, status=401)
        server.on("/version", lambda handler: handler.reply({"major": "1"}))
        yield server


@contextlib.contextmanager
def in_place_of(database, gated, folder):
    """Have the gated cluster lead to a server of the test's own."""
    certificate = make_certificate(folder)
    server = FakeServer(certificate)
    spoil(
        *(database, gated.record),
        token=None,
        server_url=server.url,
        ca_certificate=certificate.pem,
    )
    yield server
    server.stop()


@pytest.fixture
def limit(odoo_in_process):
    from odoo.addons.vworkspace_push.delivery.lanes import Limit

    return Limit()


def answer(limit, *seconds):
    """Have a server answer calls, each after so long, while it has all that may be."""
    for taken in seconds:
        with contextlib.ExitStack() as turns:
            for _call in range(limit.now):
                turns.enter_context(limit.turn())
            limit.learn(taken)


def read_lane(database, cluster):
    """Return the row of a cluster's lane, None without one."""
    with database.transaction() as env:
        domain = [("cluster_id", "=", cluster.id)]
        rows = env["vworkspace.delivery.lane"].search(domain).read()
    return rows[0] if rows else None


def retry_now(database, cluster):
    """Let the time pass until the lane's cluster is tried again."""
    database.sql(
        "UPDATE vworkspace_delivery_lane SET retry_at ="
        " now() AT TIME ZONE 'UTC' - interval '1 s' WHERE cluster_id = %s",
        cluster.id,
    )


def row_versions(database, instances):
    return database.sql(
        f"SELECT id, xmin FROM {TABLE} WHERE id = ANY(%s) ORDER BY id",  # noqa: S608
        [instance.id for instance in instances],
    )


def now():
    """Return the time as Odoo stores it."""
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)
