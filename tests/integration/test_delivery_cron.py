"""Delivery when something is in the way: crashes, outages, rivals for the same row."""

import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from environment.processes import free_port
from tests.deliveries import place_in
from tests.integration.conftest import activate, replace_token, retire, spoil
from tests.live_objects import get_object, list_objects

CRASHING_DEPLOY = Path(__file__).with_name("deploy_and_crash.py")
CRASHED = 9  # its exit code
CRASH_TIMEOUT = 60.0  # s
TABLE = "vworkspace_application_instance"


# === CRASHES AND OUTAGES === #


def test_a_crash_between_commit_and_apply_is_made_good_by_the_cron(
    database, make_instance, control_plane, namespace, odoo_install
):
    instance = make_instance()

    crashed = subprocess.run(
        [odoo_install.python, CRASHING_DEPLOY, database.name, str(instance.id)],
        env=odoo_install.environment(database.config),
        capture_output=True,
        text=True,
        timeout=CRASH_TIMEOUT,
        check=False,
    )

    assert crashed.returncode == CRASHED, crashed.stderr
    assert database.read(instance, "delivery_state") == "pending"
    assert list_objects(control_plane, namespace) == []
    database.run_cron("ir_cron_deliver")
    stored = database.read(instance, "delivery_state", "uid", "delivered_revision")
    live = get_object(control_plane, namespace)
    assert stored["delivery_state"] == "applied"
    assert stored["uid"] == live["metadata"]["uid"]
    assert stored["delivered_revision"] == 1


def test_an_outage_fails_with_a_sentence_and_ends_without_a_hand(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance()
    control_plane.kill()
    try:
        before = now()
        deploy(instance)
        failed = database.read(
            instance, "delivery_state", "delivery_message", "next_attempt_at"
        )
    finally:
        control_plane.start()

    assert failed["delivery_state"] == "failed"
    assert "refused" in failed["delivery_message"]
    assert failed["next_attempt_at"] > before
    become_due(database, instance)
    database.run_cron("ir_cron_deliver")
    stored = database.read(
        instance, "delivery_state", "delivery_message", "next_attempt_at"
    )
    assert (stored["delivery_state"], stored["next_attempt_at"]) == ("applied", False)
    assert not stored["delivery_message"]
    assert len(list_objects(control_plane, namespace)) == 1


def test_an_api_server_that_dies_during_the_apply_gets_it_again(
    database, make_instance, deploy, control_plane, namespace, monkeypatch
):
    from odoo.addons.vworkspace_push.kube import apply

    instance = make_instance()
    real_apply = apply.apply

    def answer_lost(*arguments, **keywords):
        real_apply(*arguments, **keywords)
        control_plane.kill()
        return real_apply(*arguments, **keywords)

    monkeypatch.setattr(apply, "apply", answer_lost)
    try:
        deploy(instance)
    finally:
        monkeypatch.undo()
        control_plane.start()
    assert database.read(instance, "delivery_state", "uid") == {
        "id": instance.id,
        "delivery_state": "failed",
        "uid": False,
    }

    become_due(database, instance)
    database.run_cron("ir_cron_deliver")

    live = get_object(control_plane, namespace)
    assert database.read(instance, "delivery_state") == "applied"
    assert database.read(instance, "uid") == live["metadata"]["uid"]
    assert live["metadata"]["generation"] == 1


# === WHEN IT IS TRIED AGAIN === #


def test_what_is_not_due_yet_is_left_alone(database, broken_cluster, make_instance):
    instance = make_instance(**broken_cluster)
    database.call("admin", instance._name, "action_deploy", instance.ids)
    become_due(database, instance, in_seconds=3600)

    database.run_cron("ir_cron_deliver")

    assert database.read(instance, "delivery_attempts") == 1


def test_the_back_off_grows_within_its_bounds(database, broken_cluster, make_instance):
    instance = make_instance(**broken_cluster)
    waits = []

    for attempt in range(9):
        database.call("admin", instance._name, "action_deploy", instance.ids)
        waits.append(wait_after(database, instance, attempts=attempt))

    for attempt, wait in enumerate(waits):
        longest = min(600, 5 * 2**attempt)
        assert longest / 2 - 1 <= wait <= longest + 1, f"attempt {attempt}"


def test_the_next_attempt_wakes_the_cron(database, broken_cluster, make_instance):
    instance = make_instance(**broken_cluster)
    forget_triggers(database)

    database.call("admin", instance._name, "action_deploy", instance.ids)

    due = database.read(instance, "next_attempt_at")
    assert any(abs(at - due) <= timedelta(seconds=2) for at in triggers(database))


def test_a_replaced_token_makes_what_failed_due_at_once(
    database, make_instance, deploy, control_plane, other_cluster, place_there
):
    instance = make_instance(**place_there)
    spoil(database, other_cluster, token="revoked-or-of-another-cluster")
    deploy(instance)
    failed = database.read(
        instance, "delivery_state", "delivery_message", "next_attempt_at"
    )
    assert failed["delivery_state"] == "failed"
    assert "token" in failed["delivery_message"]
    assert failed["next_attempt_at"]
    assert database.read(other_cluster, "state") == "refused"
    database.run_cron("ir_cron_deliver")  # it does not hammer
    assert database.read(instance, "delivery_attempts") == 1
    forget_triggers(database)

    replace_token(database, other_cluster, control_plane.service_account_token())

    assert triggers(database)
    database.run_cron("ir_cron_deliver")
    assert database.read(instance, "delivery_state") == "applied"


def test_many_records_at_once_are_left_to_the_cron(
    database, make_instance, control_plane, namespace
):
    from odoo.addons.vworkspace_push import const

    count = const.DELIVER_AFTER_COMMIT_LIMIT + 1
    instances = [make_instance(name=f"wiki-{n}") for n in range(count)]
    ids = [instance.id for instance in instances]
    forget_triggers(database)

    database.call("admin", instances[0]._name, "action_deploy", ids)

    assert states(database, ids) == ["pending"] * count
    assert triggers(database)
    assert list_objects(control_plane, namespace) == []
    database.run_cron("ir_cron_deliver")
    assert states(database, ids) == ["applied"] * count
    assert len(list_objects(control_plane, namespace)) == count


def test_each_retry_has_a_run_in_its_own_time(database, make_instance):
    """The attempts of a batch wait for different times."""
    put_off_all(database)
    first, second, late, paused = (make_instance(name=f"wiki-{n}") for n in range(4))
    make_pending(database, [record.id for record in (first, second, late, paused)])
    database.call("admin", paused._name, "action_pause", paused.ids)
    for record, seconds in ((first, 20), (second, 40), (late, 100), (paused, 10)):
        become_due(database, record, in_seconds=seconds)

    for record in (first, second):
        forget_triggers(database)
        database.run_cron("ir_cron_deliver")
        due = database.read(record, "next_attempt_at")
        (next_run,) = triggers(database)
        assert next_run == due
        become_due(database, record)

    forget_triggers(database)
    database.run_cron("ir_cron_deliver")
    assert triggers(database) == []  # the cron itself runs before that


# === WHEN THERE IS NO TIME LEFT === #


def test_what_a_run_has_no_time_for_stays_due_and_the_cron_runs_again(
    database, make_instance, monkeypatch
):
    from odoo.addons.vworkspace_push import const
    from odoo.addons.vworkspace_push.delivery import batch, deliver
    from odoo.addons.vworkspace_push.kube import apply

    count = 12
    ids = [make_instance(name=f"wiki-{n}").id for n in range(count)]
    make_pending(database, ids)
    forget_triggers(database)
    clock = Clock()
    monkeypatch.setattr(deliver, "time", clock)
    monkeypatch.setattr(batch, "time", clock)
    real_apply = apply.apply

    def take_all_the_time(*arguments, **keywords):
        clock.now = const.DELIVERY_BUDGET + 1
        return real_apply(*arguments, **keywords)

    monkeypatch.setattr(apply, "apply", take_all_the_time)
    database.run_cron("ir_cron_deliver")

    found = states(database, ids)
    assert 0 < found.count("applied") <= 4  # those that were under way
    assert found.count("pending") == count - found.count("applied")
    assert any(at <= now() for at in triggers(database))
    clock.now = 0.0
    monkeypatch.setattr(apply, "apply", real_apply)
    database.run_cron("ir_cron_deliver")
    assert states(database, ids) == ["applied"] * count


def test_a_request_that_has_waited_long_enough_leaves_the_rest_to_the_cron(
    database, make_instance, control_plane, namespace, monkeypatch
):
    from odoo.addons.vworkspace_push import const

    instance = make_instance()
    forget_triggers(database)
    monkeypatch.setattr(const, "DELIVER_AFTER_COMMIT_BUDGET", -1.0)

    database.call("admin", instance._name, "action_deploy", instance.ids)

    assert database.read(instance, "delivery_state") == "pending"
    assert database.read(instance, "may_exist") is False  # nothing was sent
    assert list_objects(control_plane, namespace) == []
    assert any(at <= now() for at in triggers(database))


def test_an_intent_whose_record_is_locked_has_the_cron_run(
    database, make_instance, postgres
):
    instance = make_instance()
    forget_triggers(database)
    holder = postgres.connect(database.name)
    try:
        with holder.cursor() as cr:
            cr.execute(
                "SELECT id FROM vworkspace_delivery_lock WHERE id = %s FOR UPDATE",
                [database.read(instance, "delivery_lock_id")[0]],
            )
        database.call("admin", instance._name, "action_deploy", instance.ids)
    finally:
        holder.close()

    assert database.read(instance, "delivery_state") == "pending"
    assert any(at <= now() for at in triggers(database))


# === DEFECTS OF OUR OWN === #


@pytest.mark.expect_log("delivery.attempt: Revision 1 of")
def test_a_defect_in_one_attempt_fails_that_record_alone(
    database, make_instance, monkeypatch
):
    from odoo.addons.vworkspace_push.kube import apply

    ids = [make_instance(name=f"wiki-{n}").id for n in range(3)]
    make_pending(database, ids)

    fail_for_one(monkeypatch, apply, "apply")
    database.run_cron("ir_cron_deliver")

    assert states(database, ids) == ["applied", "failed", "applied"]
    with database.transaction() as env:
        failed = env["vworkspace.application.instance"].browse(ids[1])
        assert failed.delivery_reason == "Unexpected"
        assert "ZeroDivisionError" in failed.delivery_message
        assert "token-of-the-test" not in failed.delivery_message
        assert failed.next_attempt_at


@pytest.mark.expect_log("delivery.attempt: Revision 1 of")
def test_a_defect_before_an_attempt_fails_that_record_alone(
    database, make_instance, monkeypatch
):
    from odoo.addons.vworkspace_push.kube import diff

    ids = [make_instance(name=f"wiki-{n}").id for n in range(3)]
    make_pending(database, ids)

    fail_for_one(monkeypatch, diff, "revised")
    database.run_cron("ir_cron_deliver")

    assert states(database, ids) == ["applied", "failed", "applied"]
    with database.transaction() as env:
        failed = env["vworkspace.application.instance"].browse(ids[1])
        assert failed.delivery_reason == "Unexpected"


@pytest.mark.expect_log("cannot be stored")
def test_an_outcome_that_cannot_be_stored_keeps_no_other_from_it(
    database, make_instance, monkeypatch
):
    from odoo.addons.vworkspace_push.delivery import store

    ids = [make_instance(name=f"wiki-{n}").id for n in range(4)]
    make_pending(database, ids)
    real_tell = store._tell

    def fail_for_one(env, batch, stored, *arguments):
        assert ids[2] not in stored
        return real_tell(env, batch, stored, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(store, "_tell", fail_for_one)
        database.run_cron("ir_cron_deliver")

    assert states(database, ids) == ["applied", "applied", "pending", "applied"]
    with database.transaction() as env:
        late = env["vworkspace.application.instance"].browse(ids[2])
        assert late.next_attempt_at > now()
        become_due(database, late)
    database.run_cron("ir_cron_deliver")
    assert states(database, ids) == ["applied"] * 4


def test_a_right_that_was_missing_for_long_counts_for_no_other_failure(
    database, make_instance, monkeypatch
):
    from odoo.addons.vworkspace_push import const
    from odoo.addons.vworkspace_push.kube import apply
    from odoo.addons.vworkspace_push.kube.errors import Forbidden, ServerFailed

    instance = make_instance(name="late-right")
    errors = [Forbidden("no right"), ServerFailed("starting", http_status=503)]
    real_apply = apply.apply

    def fail(connection, resource, manifest, **keywords):
        if manifest["metadata"]["name"] == "late-right":
            raise errors.pop(0)
        return real_apply(connection, resource, manifest, **keywords)

    monkeypatch.setattr(apply, "apply", fail)
    database.call("admin", instance._name, "action_deploy", instance.ids)
    assert database.read(instance, "delivery_state") == "denied"
    wait = wait_after(database, instance, attempts=const.MAX_SERVER_FAILURES)

    assert wait <= const.RETRY_FIRST + 1


# === SEVERAL DELIVERERS, SEVERAL CLUSTERS === #


def test_two_deliverers_never_deliver_one_record_at_the_same_time(
    database, cluster, make_instance, monkeypatch
):
    from odoo.addons.vworkspace_push.delivery import deliver
    from odoo.addons.vworkspace_push.kube import apply

    names = [f"wiki-{n}" for n in range(4)]
    ids = [make_instance(name=name).id for name in names]
    make_pending(database, ids)
    first_is_busy, second_is_done = threading.Event(), threading.Event()
    applied = []
    real_apply = apply.apply

    def spy(connection, resource, manifest, **keywords):
        name = manifest["metadata"]["name"]
        applied.append(name)
        if name in names[:2]:
            first_is_busy.set()
            assert second_is_done.wait(30)
        return real_apply(connection, resource, manifest, **keywords)

    monkeypatch.setattr(apply, "apply", spy)
    batch = [database.registry, "vworkspace.application.instance", cluster.id]
    first = threading.Thread(
        target=deliver.deliver, args=batch, kwargs={"ids": ids[:2]}, name="first"
    )
    first.start()
    assert first_is_busy.wait(30)

    handled = deliver.deliver(*batch)
    second_is_done.set()
    first.join(30)

    assert handled == 2
    assert sorted(applied) == names
    assert states(database, ids) == ["applied"] * 4


def test_a_record_locked_by_a_dead_deliverer_is_free_again(
    database, make_instance, postgres
):
    instance = make_instance()
    make_pending(database, instance.ids)
    holder = postgres.connect(database.name)
    with holder.cursor() as cr:
        cr.execute(
            "SELECT 1 FROM vworkspace_delivery_lock WHERE id = %s FOR NO KEY UPDATE",
            [database.read(instance, "delivery_lock_id")[0]],
        )
        database.run_cron("ir_cron_deliver")
        assert database.read(instance, "delivery_state") == "pending"
    holder.close()

    database.run_cron("ir_cron_deliver")

    assert database.read(instance, "delivery_state") == "applied"


def test_an_archived_clusters_intents_wait(
    database, cluster, make_instance, control_plane
):
    instance = make_instance()
    make_pending(database, instance.ids)
    retire(database, cluster)
    try:
        database.run_cron("ir_cron_deliver")
        assert database.read(instance, "delivery_state") == "pending"
    finally:
        database.call("admin", cluster._name, "write", cluster.ids, {"active": True})
        replace_token(database, cluster, control_plane.service_account_token())

    database.run_cron("ir_cron_deliver")

    assert database.read(instance, "delivery_state") == "applied"


def test_a_dead_cluster_does_not_keep_the_others_waiting(
    database, broken_cluster, make_instance
):
    dead = [make_instance(name=f"dead-{n}", **broken_cluster).id for n in range(3)]
    alive = [make_instance(name=f"alive-{n}").id for n in range(3)]
    make_pending(database, [*dead, *alive])

    database.run_cron("ir_cron_deliver")

    assert states(database, alive) == ["applied"] * 3
    assert set(states(database, dead)) <= {"failed", "pending"}
    with database.transaction() as env:
        waiting = env["vworkspace.application.instance"].browse(dead)[-1].waiting_for
    assert "to answer: it is tried again at" in waiting


# === FIXTURES AND HELPERS === #


@pytest.fixture
def other_cluster(database, control_plane, namespace):
    """Another active cluster (the same one, under another name)."""
    with database.transaction() as env:
        cluster = env["vworkspace.cluster"].create(
            {
                "name": f"Another for {namespace}",
                "cluster_id": f"cluster-of-{namespace}",
                "server_url": control_plane.server,
                "ca_certificate": control_plane.ca_pem,
                "token": control_plane.service_account_token(),
                "namespace_ids": [(0, 0, {"name": namespace})],
            }
        )
    activate(database, cluster)
    return cluster


@pytest.fixture
def place_there(database, other_cluster):
    """Values to deploy in the other cluster."""
    return place_in(database, other_cluster)


@pytest.fixture
def broken_cluster(database, other_cluster, place_there):
    """Values to deploy in a cluster at whose address nobody listens any more."""
    url = f"https://127.0.0.1:{free_port()}"
    spoil(database, other_cluster, token=None, server_url=url)
    return place_there


def fail_for_one(monkeypatch, module, function):
    """Have a function, whose last argument is a manifest, fail for wiki-1's."""
    real = getattr(module, function)

    def fail(*arguments, **keywords):
        if arguments[-1]["metadata"]["name"] == "wiki-1":
            raise ZeroDivisionError("token-of-the-test")
        return real(*arguments, **keywords)

    monkeypatch.setattr(module, function, fail)


def make_pending(database, ids):
    """Commit intents as a request would that died before it delivered them."""
    with database.transaction() as env:
        env["vworkspace.application.instance"].browse(ids).action_deploy()
        env.cr.postcommit.clear()


def become_due(database, instance, *, in_seconds=0):
    database.sql("UPDATE vworkspace_delivery_lane SET retry_at = NULL")
    database.sql(
        f"""UPDATE {TABLE}
               SET next_attempt_at = now() AT TIME ZONE 'UTC' + %s * interval '1 s'
             WHERE id = %s""",  # noqa: S608
        in_seconds,
        instance.id,
    )


def put_off_all(database):
    """Let nothing that other tests left be due soon."""
    for table in (TABLE, "vworkspace_operation"):
        database.sql(
            f"UPDATE {table} SET next_attempt_at = next_attempt_at"  # noqa: S608
            " + interval '1 h' WHERE next_attempt_at IS NOT NULL"
        )


def wait_after(database, instance, *, attempts):
    """Fail once more, as after that many failed attempts; return the wait, in s."""
    database.sql("DELETE FROM vworkspace_delivery_lane")
    database.sql(
        f"UPDATE {TABLE} SET delivery_attempts = %s,"  # noqa: S608
        " next_attempt_at = now() AT TIME ZONE 'UTC' WHERE id = %s",
        attempts,
        instance.id,
    )
    database.run_cron("ir_cron_deliver")
    stored = database.read(
        instance, "delivery_state", "delivery_attempts", "next_attempt_at"
    )
    assert stored["delivery_state"] == "failed"
    assert stored["delivery_attempts"] == attempts + 1
    return (stored["next_attempt_at"] - now()).total_seconds()


class Clock:
    """Stands for the module `time` where a test says how late it is."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


def now():
    """Return the time as Odoo stores it."""
    return datetime.now(UTC).replace(tzinfo=None)


def states(database, ids):
    with database.transaction() as env:
        records = env["vworkspace.application.instance"].browse(ids)
        return [record.delivery_state for record in records]


def triggers(database):
    rows = database.sql(
        """SELECT call_at FROM ir_cron_trigger
            WHERE cron_id = (SELECT res_id FROM ir_model_data
                              WHERE module = 'vworkspace_push'
                                AND name = 'ir_cron_deliver')
         ORDER BY call_at"""
    )
    return [call_at for (call_at,) in rows]


def forget_triggers(database):
    database.sql("DELETE FROM ir_cron_trigger")
