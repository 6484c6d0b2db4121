"""A credential's life after its activation: replaced under load, refused, revoked,
expired, sealed anew, and found in a copied database; each through the same actions as
on the form, on the real API server.
"""

import hashlib
import json
import re
import subprocess
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import requests
from cryptography.fernet import Fernet

from environment.odoo import WATCH_READY_LINE
from tests.live_objects import get_object
from tests.registration import (
    CLUSTER,
    RevocableToken,
    Spy,
    activities,
    call,
    kubeconfig,
    list_namespace,
    make_application,
    refused,
    register,
    verify,
    write,
)
from tests.waiting import eventually

HOLD_CONNECTION = Path(__file__).with_name("hold_connection.py")
ELSEWHERE = 5.0  # s until every process uses another credential, or none
FORGOTTEN = 30.0  # s until an API server refuses a revoked token: it remembers for 10
READY_TIMEOUT = 60.0  # s
COMMAND_TIMEOUT = 120.0  # s


# === REPLACED === #


def test_a_candidate_is_verified_while_the_active_one_works_on(
    database, active, application, token, control_plane, spy
):
    new = RevocableToken(control_plane)
    write(database, active, token=new.text)
    verify(database, active)
    assert states(database, active) == {"active": True, "candidate": True}
    spy.clear()

    call(database, application, "action_send_again")
    assert set(spy.tokens) == {token.text}
    call(database, active, "action_activate")
    spy.clear()
    call(database, application, "action_send_again")

    assert set(spy.tokens) == {new.text}
    assert database.read(application, "delivery_state") == "applied"
    assert states(database, active) == {"active": True, "retired": False}


def test_a_candidate_that_does_not_work_leaves_the_active_one_alone(
    database, active, application, token, spy
):
    write(database, active, token="not-a-token-of-this-cluster")
    verify(database, active)
    refused(database, active, "action_activate", "Who we are|Something required")
    spy.clear()

    call(database, application, "action_send_again")

    assert database.read(active, "state") == "active"
    assert database.read(application, "delivery_state") == "applied"
    assert set(spy.tokens) == {token.text}


def test_a_kubeconfig_of_the_same_cluster_replaces_a_token_that_works_on(
    database, active, application, token, control_plane, spy
):
    new = RevocableToken(control_plane)
    same = {"server": f"{control_plane.server}/"}
    text = kubeconfig(control_plane, user={"token": new.text}, cluster=same)

    write(database, active, kubeconfig=text)

    assert database.read(active, "state") == "active"
    spy.clear()
    call(database, application, "action_send_again")
    assert set(spy.tokens) == {token.text}
    verify(database, active)
    call(database, active, "action_activate")
    spy.clear()
    call(database, application, "action_send_again")
    assert set(spy.tokens) == {new.text}


def test_no_delivery_fails_while_the_credential_is_replaced(
    database, active, application, control_plane, spy
):
    new = RevocableToken(control_plane)
    write(database, active, token=new.text)
    verify(database, active)
    with deliveries(database, application) as outcomes:
        eventually(lambda: len(outcomes) >= 3, what="deliveries before the swap")
        as_request(database, active, "action_activate")
        spy.clear()
        swapped = len(outcomes)
        eventually(lambda: len(outcomes) >= swapped + 5, what="deliveries after it")

    assert set(outcomes) == {"applied"}
    # One may have been under way; it may be the one that the first of these tells of.
    assert set(spy.tokens[1:]) == {new.text}


def test_a_second_process_uses_the_new_credential_within_seconds(
    database, active, other_process, control_plane
):
    before = other_process.ask()
    new = RevocableToken(control_plane)
    write(database, active, token=new.text)
    verify(database, active)

    call(database, active, "action_activate")

    after = eventually(
        lambda: (a := other_process.ask())["first_is_closed"] and a,
        what="the other process to close its connection with the old credential",
        timeout=ELSEWHERE,
    )
    assert after["token"] == digest(new.text) != before["token"]


# === REFUSED === #


def test_a_refused_credential_is_not_tried_again_until_replaced(
    database, active, application, second_application, token, control_plane, spy
):
    token.revoke()
    eventually(lambda: not token.is_accepted(), what="a refusal", timeout=FORGOTTEN)
    spy.clear()

    call(database, application, "action_send_again")

    # Once, and a moment later whether it is still refused
    assert [method for method, *_rest in spy.sent] == ["PATCH", "GET"]
    stored = database.read(active, "state", "state_message")
    assert stored["state"] == "refused"
    assert "does not accept the credential any more" in stored["state_message"]
    (activity,) = activities(database, active)
    assert activity["summary"] == "Credential refused"
    assert activity["user_id"][1] == "Mitchell Admin"
    assert database.read(application, "delivery_state") == "failed"

    spy.clear()
    call(database, second_application, "action_deploy")
    make_due(database)
    for cron in ("ir_cron_deliver", "ir_cron_status", "ir_cron_verify"):
        database.run_cron(cron)
    assert spy.sent == []
    assert database.read(second_application, "delivery_state") == "pending"

    write(database, active, token=RevocableToken(control_plane).text)
    verify(database, active)
    call(database, active, "action_activate")
    database.run_cron("ir_cron_deliver")
    assert database.read(application, "delivery_state") == "applied"
    assert database.read(second_application, "delivery_state") == "applied"


# === REVOKED === #


def test_a_revoked_credential_is_used_nowhere_within_seconds(
    database, active, application, other_process, worker, control_plane, spy
):
    eventually(lambda: open_watches(control_plane) > 0, what="the worker's stream")
    spy.clear()

    call(database, active, "action_revoke")

    answer = eventually(
        lambda: (a := other_process.ask())["first_is_closed"] and a,
        what="the other process to close its connection",
        timeout=ELSEWHERE,
    )
    assert "is not active" in answer["refusal"]
    eventually(
        lambda: open_watches(control_plane) == 0,
        what="the worker to close its stream",
        timeout=ELSEWHERE,
    )
    call(database, application, "action_send_again")
    make_due(database)
    database.run_cron("ir_cron_deliver")
    database.run_cron("ir_cron_status")
    assert spy.sent == []
    assert database.read(application, "delivery_state") == "pending"


def test_a_revoked_credential_is_erased_once_the_server_refuses_it(
    database, active, token
):
    call(database, active, "action_revoke")
    refused(database, active, "action_finish_revocation", "still accepts it")
    assert states(database, active) == {"active": True}

    token.revoke()
    eventually(lambda: not token.is_accepted(), what="a refusal", timeout=FORGOTTEN)
    call(database, active, "action_finish_revocation")

    assert database.read(active, "state") == "revoked"
    assert states(database, active) == {"retired": False}


def test_it_can_be_erased_although_the_server_may_accept_it(database, active):
    refused(database, active, "action_erase_unverified", "not being revoked")
    call(database, active, "action_revoke")

    call(database, active, "action_erase_unverified")

    assert database.read(active, "state") == "revoked"
    assert states(database, active) == {"retired": False}
    refused(database, active, "action_activate", "Store a credential first")


def test_a_revoked_credential_cannot_be_activated_again_by_accident(database, active):
    call(database, active, "action_revoke")

    refused(database, active, "action_activate", "[Rr]evo")


def test_an_armed_cluster_is_neither_archived_nor_deleted(database, active):
    from odoo.exceptions import UserError

    for method, arguments in (
        ("write", [{"active": False}]),
        ("action_archive", []),
        ("write", [{"connectivity_mode": "pull"}]),
        ("unlink", []),
    ):
        with pytest.raises(UserError, match="Revoke it first"):
            database.call("admin", CLUSTER, method, active.ids, *arguments)


# === EXPIRED === #


@pytest.mark.parametrize(
    ("left", "sentence"),
    [
        ("-1 hour", "has expired"),
        ("20 hours", "expires in less than 24 hours"),
        ("60 hours", "expires in less than 72 hours"),
        ("10 days", "expires in less than 336 hours"),
        ("60 days", "Most of the credential's life is over"),
    ],
)
def test_the_end_of_a_credential_is_warned_of_ahead(database, active, left, sentence):
    expire(database, active, left)

    assert sentence in database.read(active, "expiry_warning")
    for _day in range(2):
        database.run_cron("ir_cron_verify")
    warnings = [a for a in activities(database, active) if sentence in a["summary"]]
    assert len(warnings) == 1

    done = [warnings[0]["id"]]
    database.call("admin", "mail.activity", "action_feedback", done)
    database.run_cron("ir_cron_verify")
    assert not any(sentence in a["summary"] for a in activities(database, active))


def test_each_stage_of_the_warning_raises_an_activity_of_its_own(database, active):
    for left in ("10 days", "60 hours", "20 hours"):
        expire(database, active, left)
        database.run_cron("ir_cron_verify")

    notes = {a["note"] for a in activities(database, active)}
    assert len(notes) == 3


def test_a_credential_with_its_life_ahead_raises_no_warning(database, active):
    expire(database, active, "300 days")

    assert database.read(active, "expiry_warning") is False


# === SEALED ANEW === #


def test_rotation_ends_with_all_sealed_by_the_new_key(database, sealed, keys):
    both = f"{keys.new},{keys.old}"
    assert keys.run("check", keys.old)[0] == 0

    code, printed = keys.run("check", both)
    assert (code, printed.count("opens with an older key: rotate")) == (0, 3)
    assert keys.run("check", keys.new)[0] == 1  # not yet
    code, printed = keys.run("rotate", both)
    assert (code, "3 sealed anew" in printed) == (0, True), printed

    code, printed = keys.run("check", keys.new)
    assert (code, printed.count(": opens\n")) == (0, 3), printed
    assert keys.run("rotate", both)[1].count("0 sealed anew") == 1


def test_an_interrupted_rotation_goes_on_where_it_was(
    database, sealed, keys, monkeypatch
):
    both = f"{keys.new},{keys.old}"
    monkeypatch.setenv("VWORKSPACE_PUSH_KEYS", both)
    with database.transaction() as env:
        assert env["vworkspace.cluster.credential"].sudo()._reseal(limit=1) == 1

    assert keys.run("check", both)[0] == 0  # half-way, all open
    code, printed = keys.run("rotate", both)

    assert (code, "2 sealed anew" in printed) == (0, True), printed
    assert keys.run("check", keys.new)[0] == 0


def test_the_wrong_key_changes_nothing_and_says_so(database, sealed, keys):
    wrong = Fernet.generate_key().decode()
    before = sealed_texts(database)

    for action in ("check", "rotate"):
        code, printed = keys.run(action, wrong)
        assert code == 1
        assert "None of the configured keys opens" in printed
        assert wrong not in printed

    assert sealed_texts(database) == before
    assert keys.run("check", keys.old)[0] == 0


# === COPIED === #


def test_a_copied_database_sends_nothing_until_it_is_confirmed(
    database, active, application, copy_of, control_plane, namespace, spy
):
    before = get_object(control_plane, namespace)
    with copy_of(database) as copy:
        spy.clear()
        call(copy, application, "action_send_again")
        for cron in ("ir_cron_deliver", "ir_cron_status", "ir_cron_verify"):
            copy.run_cron(cron)

        assert spy.sent == []
        stored = copy.read(application, "delivery_state", "delivery_message")
        assert stored["delivery_state"] == "failed"
        assert "looks like a copy" in stored["delivery_message"]
        assert copy.read(active, "database_is_copy") is True
        assert get_object(control_plane, namespace) == before

        call(copy, active, "action_confirm_database")

        assert copy.read(active, "database_is_copy") is False
        copy.run_cron("ir_cron_deliver")
        assert copy.read(application, "delivery_state") == "applied"


# === FIXTURES === #


@pytest.fixture(autouse=True)
def alone(database):
    """Each test has the identity, the keys and the crons for itself."""
    yield
    database.sql(
        """UPDATE vworkspace_cluster
              SET cluster_id = 'done-' || id, state = 'revoked', active = FALSE,
                  verification_state = 'none',
                  connection_version = connection_version + 1"""
    )
    database.sql(
        """UPDATE vworkspace_cluster_credential
              SET state = 'retired', sealed_secret = NULL"""
    )


@pytest.fixture
def spy(database, monkeypatch):
    return Spy(monkeypatch)


@pytest.fixture
def token(control_plane, namespace):
    return RevocableToken(control_plane)


@pytest.fixture
def active(database, control_plane, namespace, token):
    """An active cluster whose token can be revoked."""
    pasted = f"# as pasted\n{control_plane.ca_pem}\n"
    cluster = register(database, control_plane, ca_certificate=pasted)
    list_namespace(database, cluster, namespace)
    write(database, cluster, token=token.text)
    verify(database, cluster)
    call(database, cluster, "action_activate")
    return cluster


@pytest.fixture
def application(database, active):
    """An application that exists in the cluster."""
    made = make_application(database, active)
    call(database, made, "action_deploy")
    assert database.read(made, "delivery_state") == "applied"
    return made


@pytest.fixture
def second_application(database, active):
    return make_application(database, active, name="second")


@pytest.fixture
def sealed(database, control_plane):
    """Three clusters, each with a sealed candidate."""
    for number in range(3):
        cluster = register(database, control_plane, cluster_id=f"sealed-{number}")
        write(database, cluster, token=f"a-token-of-number-{number}")


class OtherProcess:
    """A process that holds a connection, and tells about it when asked."""

    def __init__(self, popen):
        self._popen = popen

    def ask(self):
        self._popen.stdin.write("?\n")
        self._popen.stdin.flush()
        return json.loads(self._popen.stdout.readline())


@pytest.fixture
def other_process(database, active, odoo_install):
    with subprocess.Popen(
        [odoo_install.python, HOLD_CONNECTION, database.name, str(active.id)],
        env=odoo_install.environment(database.config),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as popen:
        assert popen.stdout.readline() == "ready\n"
        yield OtherProcess(popen)
        popen.kill()


@pytest.fixture
def worker(database, active, odoo_install, work):
    process = odoo_install.watch_worker(
        database.config, database.name, log=work / "logs" / "life-worker.log"
    )
    process.start()
    process.wait_for_output(WATCH_READY_LINE, timeout=READY_TIMEOUT)
    yield process
    process.stop()


class Keys:
    """The command that checks and rotates keys, run as an admin would."""

    def __init__(self, database, odoo_install):
        self._database = database
        self._install = odoo_install
        self.old = database.config.with_name("sealing.keys").read_text().strip()
        self.new = Fernet.generate_key().decode()

    def run(self, action, keys):
        """Return its exit code, and what it printed, errors included."""
        done = subprocess.run(
            self._install.command("vworkspace_key", action, "-d", self._database.name),
            env=self._install.environment(
                self._database.config, {"VWORKSPACE_PUSH_KEYS": keys}
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_TIMEOUT,
            check=False,
        )
        return done.returncode, done.stdout


@pytest.fixture
def keys(database, odoo_install):
    return Keys(database, odoo_install)


@pytest.fixture
def copy_of(odoo_install, postgres):
    """Return a context: another database that is a plain copy of one."""

    @contextmanager
    def copy(database):
        from odoo.modules.registry import Registry
        from odoo.sql_db import close_db

        name = f"{database.name}_copy"
        close_db(database.name)
        odoo_install.copy_database(postgres, database.name, name)
        yield type(database)(name, database.config)
        Registry.delete(name)
        close_db(name)
        postgres.drop_database(name)

    return copy


# === HELPERS === #


def states(database, cluster):
    """Return for each state of the cluster's credentials whether a secret is stored."""
    rows = database.sql(
        """SELECT state, sealed_secret IS NOT NULL
             FROM vworkspace_cluster_credential WHERE cluster_id = %s""",
        cluster.id,
    )
    return dict(rows)


def sealed_texts(database):
    return database.sql(
        "SELECT id, sealed_secret FROM vworkspace_cluster_credential ORDER BY id"
    )


def as_request(database, record, method):
    """Call a method as the server does: once more after a serialization failure."""
    from odoo.service.model import call_kw, retrying

    with database.transaction() as env:
        retrying(partial(call_kw, env[record._name], method, [record.ids], {}), env)


@contextmanager
def deliveries(database, application):
    """Send an application over and over; yield the list of how each ended."""
    outcomes, end = [], threading.Event()

    def deploy_on():
        while not end.is_set():
            as_request(database, application, "action_send_again")
            outcomes.append(database.read(application, "delivery_state"))

    thread = threading.Thread(target=deploy_on)
    thread.start()
    try:
        yield outcomes
    finally:
        end.set()
        thread.join()


def make_due(database):
    database.sql(
        """UPDATE vworkspace_application_instance
              SET next_attempt_at = now() AT TIME ZONE 'UTC' - interval '1 s'
            WHERE next_attempt_at IS NOT NULL"""
    )


def expire(database, cluster, left):
    """Let a credential of a year have that much time left, by its own words."""
    database.sql(
        """UPDATE vworkspace_cluster_credential
              SET expires_at = now() AT TIME ZONE 'UTC' + %s::interval,
                  issued_at = now() AT TIME ZONE 'UTC' + %s::interval
                              - interval '365 days'
            WHERE cluster_id = %s AND state = 'active'""",
        *(left, left, cluster.id),
    )


def digest(token):
    return hashlib.sha256(token.encode()).hexdigest()


def open_watches(control_plane):
    """Return how many watches of single namespaces the API server serves."""
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(
            f"{control_plane.server}/metrics",
            headers={"Authorization": f"Bearer {control_plane.admin_token}"},
            verify=str(control_plane.ca_file),
            timeout=30,
        )
    gauge = re.compile(
        r"^apiserver_longrunning_requests\{(?=.*applicationinstances)"
        r'(?=.*scope="namespace")(?=.*verb="WATCH").*\} (\d+)$',
        re.MULTILINE,
    )
    return sum(map(int, gauge.findall(answer.text)))
