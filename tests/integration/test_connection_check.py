"""“Test Connection” says in a sentence what it saw, and keeps what was typed."""

import itertools

import pytest

from environment.certificates import make_certificates
from environment.control_plane import ControlPlane
from environment.processes import free_port
from tests.integration.conftest import activate, replace_token, spoil

US = "system:serviceaccount:vworkspace-system:vworkspace-control-plane"
_numbers = itertools.count(1)

TYPED = ("name", "cluster_id", "server_url", "ca_certificate", "tls_server_name")


def test_a_working_connection_is_described(database, active_cluster):
    answer, stored = check(database, active_cluster)

    assert stored["check_state"] == "ok"
    assert "Kubernetes v1." in stored["check_message"]
    assert US in stored["check_message"]
    assert "ApplicationInstance" in stored["check_message"]
    assert stored["server_identity"] == US
    assert answer["type"] == "success"


def test_a_closed_port_is_said_to_be_unreachable(database, active_cluster):
    port = free_port()
    spoil(database, active_cluster, token=None, server_url=f"https://127.0.0.1:{port}")

    answer, stored = check(database, active_cluster)

    assert stored["check_state"] == "problem"
    assert f"127.0.0.1:{port}" in stored["check_message"]
    assert "refused" in stored["check_message"]
    assert answer["type"] == "danger"


def test_another_clusters_ca_is_said_not_to_match(database, active_cluster, tmp_path):
    make_certificates(tmp_path)
    other_ca = (tmp_path / "ca.crt").read_text()
    spoil(database, active_cluster, token=None, ca_certificate=other_ca)

    _answer, stored = check(database, active_cluster)

    assert stored["check_state"] == "problem"
    assert "Compare the CA certificate" in stored["check_message"]


def test_another_clusters_token_is_said_not_to_be_accepted(database, active_cluster):
    spoil(database, active_cluster, token="not-a-token-of-this-cluster")

    _answer, stored = check(database, active_cluster)

    assert stored["check_state"] == "problem"
    assert "Check that the token is of this cluster" in stored["check_message"]


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        ("action_verify", "no credential to verify yet"),
        ("action_activate", "Store a credential first"),
    ],
)
def test_a_missing_credential_is_asked_for(database, make_cluster, action, sentence):
    from odoo.exceptions import UserError

    cluster = make_cluster(token=False)

    with pytest.raises(UserError, match=sentence):
        database.call("admin", cluster._name, action, cluster.ids)


def test_a_cluster_that_is_not_active_is_not_connected_to(database, make_cluster):
    _answer, stored = check(database, make_cluster())

    assert stored["check_state"] == "problem"
    assert "is not active" in stored["check_message"]
    assert "administrator activates it" in stored["check_message"]
    assert stored["server_identity"] is False


def test_a_cluster_without_the_definitions_is_told_from_a_broken_one(
    database, active_cluster, bare_control_plane
):
    spoil(
        database,
        active_cluster,
        server_url=bare_control_plane.server,
        ca_certificate=bare_control_plane.ca_pem,
        token=bare_control_plane.service_account_token(),
    )

    answer, stored = check(database, active_cluster)

    assert stored["check_state"] == "problem"
    assert "does not serve ApplicationInstance" in stored["check_message"]
    assert "Install the vWorkspace operator" in stored["check_message"]
    assert stored["server_identity"] == US
    assert answer["type"] == "warning"


def test_a_later_success_replaces_the_problem(database, active_cluster, control_plane):
    spoil(database, active_cluster)
    _answer, stored = check(database, active_cluster)
    assert stored["check_state"] == "problem"
    replace_token(database, active_cluster, control_plane.service_account_token())

    _answer, stored = check(database, active_cluster)

    assert stored["check_state"] == "ok"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"server_url": "http://10.0.0.1"}, "must begin with https://"),
        ({"server_url": "10.0.0.1:6443"}, "must begin with https://"),
        ({"server_url": "https://admin@10.0.0.1"}, "Remove the user name"),
        ({"ca_certificate": "MIIC…"}, "not a certificate"),
        ({"cluster_id": "has spaces"}, "at most 63 letters"),
        ({"stale_after": 59}, "60 seconds at least"),
    ],
    ids=["plain http", "no scheme", "user name", "no PEM", "identity", "impatience"],
)
def test_what_cannot_work_is_refused_when_it_is_entered(make_cluster, values, sentence):
    from odoo.exceptions import ValidationError

    with pytest.raises(ValidationError, match=sentence):
        make_cluster(**values)


def test_a_missing_address_is_named_by_the_verification(database, make_cluster):
    from odoo.exceptions import UserError

    cluster = make_cluster(server_url=False)

    with pytest.raises(UserError, match="Something required is missing"):
        activate(database, cluster)

    assert database.read(cluster, "verification_state") == "failed"
    with database.transaction() as env:
        (line,) = env[cluster._name].browse(cluster.ids).check_ids
        assert "has no API server address" in line.seen


def test_an_active_cluster_cannot_lose_its_address(database, active_cluster):
    from odoo.exceptions import ValidationError

    no_address = {"server_url": False}
    with pytest.raises(ValidationError, match="needs the address"):
        database.call(
            *("admin", active_cluster._name, "write", active_cluster.ids, no_address)
        )


# === FIXTURES AND HELPERS === #


@pytest.fixture(scope="module")
def bare_control_plane(tmp_path_factory):
    """A cluster in which nobody installed the vWorkspace operator."""
    plane = ControlPlane(tmp_path_factory.mktemp("bare"))
    try:
        plane.start()
        plane.grant([])
        yield plane
    finally:
        plane.stop()


@pytest.fixture
def make_cluster(database, control_plane):
    """Return a function that registers the test's cluster, with other values."""

    def make(**values):
        with database.transaction() as env:
            return env["vworkspace.cluster"].create(
                {
                    "name": "Test",
                    "cluster_id": f"check-{next(_numbers)}",
                    "server_url": control_plane.server,
                    "ca_certificate": control_plane.ca_pem,
                    "token": control_plane.service_account_token(),
                    **values,
                }
            )

    return make


@pytest.fixture
def active_cluster(database, make_cluster):
    cluster = make_cluster()
    activate(database, cluster)
    return cluster


def check(database, cluster):
    """Press the button; return the notification and what the record shows then."""
    typed = database.read(cluster, *TYPED)
    answer = database.call(
        "admin", cluster._name, "action_test_connection", cluster.ids
    )
    stored = database.read(
        *(cluster, "check_state", "check_message", "check_date"),
        *("server_version", "server_identity"),
    )
    assert answer["params"]["message"] == stored["check_message"]
    assert stored["check_date"]
    assert database.read(cluster, *TYPED) == typed
    return answer["params"], stored
