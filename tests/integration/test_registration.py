"""From an empty record to an active cluster, as a new admin goes there, and all that
keeps a cluster from becoming active; on the real API server with RBAC.
"""

import base64
import os
import re
import subprocess

import pytest

from environment.control_plane import SERVICE_ACCOUNT
from environment.control_plane_build import program
from tests.live_objects import get_object
from tests.registration import (
    IDENTITY,
    RevocableToken,
    Spy,
    active_credential,
    activities,
    call,
    candidate,
    client_certificate,
    cluster_object,
    get_rules,
    install_guard,
    kubeconfig,
    list_namespace,
    make_application,
    make_namespace,
    refused,
    register,
    remove_guard,
    set_role,
    verify,
    write,
)
from tests.waiting import eventually

KEYS = ["reach", "tls", "ca", "version", "clock", "user", "token", "definitions"]
RIGHTS_CHANGED = "The connector's rights changed"
FORMS = ("token", "kubeconfig", "mtls", "in_cluster")


# === FROM EMPTY TO ACTIVE === #


def test_following_the_page_alone_leads_to_an_active_cluster(
    database, control_plane, guard, fresh_namespace, tmp_path, spy
):
    cluster = register(database, control_plane, ca_certificate=False)
    call(database, cluster, "action_fetch_certificate")
    call(database, cluster, "action_accept_certificate")
    list_namespace(database, cluster, fresh_namespace)

    printed = run_printed_commands(database, cluster, control_plane, tmp_path)
    write(database, cluster, token=printed.splitlines()[-1])
    verify(database, cluster)

    checks = read_checks(database, cluster)
    assert [c["key"] for c in checks] == [
        *KEYS,
        "cluster",
        "rights",
        f"rights/{fresh_namespace}",
        f"gate/{fresh_namespace}",
    ]
    assert {c["key"]: c["seen"] for c in checks if c["state"] != "ok"} == {}
    assert database.read(cluster, "verification_state") == "passed"
    call(database, cluster, "action_activate")
    assert database.read(cluster, "state", "has_credential")["state"] == "active"
    assert usable(database, cluster) == {fresh_namespace: True}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_credential_leads_to_an_active_cluster(
    database, control_plane, namespace, store_form, form
):
    cluster = register(database, control_plane)
    list_namespace(database, cluster, namespace)

    store_form[form](cluster)
    assert database.read(cluster, "has_candidate") is True
    verify(database, cluster)
    call(database, cluster, "action_activate")

    assert database.read(cluster, "state") == "active"
    assert required_failures(database, cluster) == []
    kind = {"mtls": "token"}.get(form, form)
    assert active_credential(database, cluster)["kind"] == kind


def test_each_form_sends_identical_requests(
    database, control_plane, namespace, store_form, spy
):
    cluster = register(database, control_plane)
    list_namespace(database, cluster, namespace)
    seen, application = {}, None
    for form in FORMS:
        store_form[form](cluster)
        verify(database, cluster)
        call(database, cluster, "action_activate")
        application = application or make_application(database, cluster)
        deploy_once = database.read(application, "uid")
        if not deploy_once:  # the first delivery of all knows no uid yet
            call(database, application, "action_deploy")
        spy.clear()
        call(database, application, "action_send_again")
        assert database.read(application, "delivery_state") == "applied"
        live = get_object(control_plane, namespace)
        managed = [
            (entry["manager"], entry["operation"], entry["fieldsV1"])
            for entry in live["metadata"]["managedFields"]
        ]
        seen[form] = (list(spy.sent), live["spec"], managed)

    assert seen["token"][0]
    assert all(found == seen["token"] for found in seen.values())


def test_a_kubeconfig_alone_is_enough_to_begin_with(database, control_plane):
    text = kubeconfig(
        control_plane, user={"token": control_plane.service_account_token()}
    )

    answer = database.call(
        "admin",
        "vworkspace.cluster",
        "web_save",
        [],
        {"name": "Pasted", "cluster_id": "pasted", "kubeconfig": text},
        {"server_url": {}, "ca_certificate": {}, "kubeconfig": {}, "has_candidate": {}},
    )

    assert answer[0]["server_url"] == control_plane.server
    assert answer[0]["ca_certificate"].split() == control_plane.ca_pem.split()
    assert answer[0]["kubeconfig"] is False
    assert answer[0]["has_candidate"] is True


def test_what_was_taken_from_a_kubeconfig_is_said_and_the_rest_forgotten(
    database, control_plane
):
    token = control_plane.service_account_token()
    cluster = register(database, control_plane, server_url="https://other:6443")

    write(
        database, cluster, kubeconfig=kubeconfig(control_plane, user={"token": token})
    )

    stored = database.read(cluster, "server_url", "kubeconfig", "has_candidate")
    assert stored["server_url"] == control_plane.server
    assert stored["kubeconfig"] is False
    summary = candidate(database, cluster)["summary"]
    assert "Context prod: cluster prod, user connector" in summary
    assert "the others (other) were not read" in summary
    assert token not in summary


def test_a_rotated_projected_token_is_used_from_then_on(
    database, control_plane, namespace, pod, spy
):
    cluster = register(database, control_plane)
    list_namespace(database, cluster, namespace)
    old = pod.rotate()
    call(database, cluster, "action_use_in_cluster")
    verify(database, cluster)
    call(database, cluster, "action_activate")
    application = make_application(database, cluster)
    call(database, application, "action_deploy")
    assert spy.tokens[-1] == old
    new = pod.rotate()

    call(database, application, "action_send_again")

    assert spy.tokens[-1] == new != old
    assert database.read(application, "delivery_state") == "applied"


def test_the_pods_account_takes_a_client_certificate_too(
    database, control_plane, namespace, pod
):
    cluster = register(database, control_plane, ca_certificate=False)
    list_namespace(database, cluster, namespace)
    certificate, key = client_certificate(control_plane)

    call(database, cluster, "action_use_in_cluster")
    write(database, cluster, client_certificate=certificate, client_key=key)
    verify(database, cluster)
    call(database, cluster, "action_activate")

    assert active_credential(database, cluster)["kind"] == "in_cluster"
    assert check_state(database, cluster, "client_certificate") == "ok"


def test_the_pods_account_is_offered_in_a_pod_alone(database, control_plane):
    cluster = register(database, control_plane)

    assert database.read(cluster, "in_cluster_possible") is False
    refused(database, cluster, "action_use_in_cluster", "does not run in a pod")


# === CERTIFICATE === #


def test_nothing_is_trusted_before_the_certificate_is_accepted(
    database, control_plane, namespace
):
    cluster = register(database, control_plane, ca_certificate=False)
    write(database, cluster, token=control_plane.service_account_token())
    refused(database, cluster, "action_accept_certificate", "Fetch the certificate")

    call(database, cluster, "action_fetch_certificate")

    assert database.read(cluster, "ca_certificate") is False
    summary = database.read(cluster, "presented_summary")
    assert "CN=kube-apiserver" in summary
    assert re.search(r"SHA-256: ([0-9A-F]{2}:){31}[0-9A-F]{2}", summary)
    verify(database, cluster)
    (line,) = read_checks(database, cluster)  # not even a public authority
    assert "fetch the server's and accept it" in line["seen"]
    refused(database, cluster, "action_activate", "Credential")

    call(database, cluster, "action_accept_certificate")

    assert database.read(cluster, "presented_certificates") is False
    write(database, cluster, token=control_plane.service_account_token())
    verify(database, cluster)
    assert check_state(database, cluster, "tls") == "ok"


# === RIGHTS === #


def test_the_report_names_exactly_what_was_removed_and_what_was_added(
    database, control_plane, verified, namespace
):
    rules = get_rules(control_plane, namespace)
    rules[0]["verbs"].remove("watch")
    rules[1]["verbs"].remove("delete")
    rules.append({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]})

    set_role(control_plane, namespace, rules)

    line = eventually_check(
        database,
        verified,
        f"rights/{namespace}",
        lambda c: c["missing"] and c["excess"],
    )
    assert set(line["missing"].splitlines()) == {
        "watch applicationinstances.apps.vworkspace.io",
        "delete operations.ops.vworkspace.io",
    }
    assert line["excess"].splitlines() == ["get secrets"]
    assert line["state"] == "failed"
    assert usable(database, verified) == {namespace: False}
    refused(database, verified, "action_activate", f"{line['title']}")


def test_excess_rights_keep_a_cluster_from_being_activated_until_accepted(
    database, control_plane, verified, namespace
):
    set_excess(control_plane, namespace, "get")
    eventually_check(database, verified, f"rights/{namespace}", lambda c: c["excess"])
    assert database.read(verified, "verification_state") == "excess"
    refused(database, verified, "action_activate", "beyond the needed")
    refused(database, verified, "action_accept_excess", "Say in a few words")

    write(database, verified, excess_reason="The operator shares this account.")
    call(database, verified, "action_accept_excess")
    call(database, verified, "action_activate")

    stored = database.read(
        verified,
        *("state", "accepted_excess", "accepted_excess_reason", "accepted_excess_at"),
        *("accepted_excess_by", "excess_rights"),
    )
    assert stored["state"] == "active"
    assert stored["accepted_excess_reason"] == "The operator shares this account."
    assert stored["accepted_excess_by"][1] == "Mitchell Admin"
    assert stored["accepted_excess_at"]
    assert "get secrets" in stored["accepted_excess"]
    assert stored["excess_rights"] == stored["accepted_excess"]  # it stays visible
    assert messages(database, verified, "The operator shares this account.")


def test_an_acceptance_is_void_once_the_excess_is_another(
    database, control_plane, verified, namespace
):
    set_excess(control_plane, namespace, "get")
    eventually_check(database, verified, f"rights/{namespace}", lambda c: c["excess"])
    write(database, verified, excess_reason="The operator shares this account.")
    call(database, verified, "action_accept_excess")
    verify(database, verified)
    assert database.read(verified, "verification_state") == "passed"

    set_excess(control_plane, namespace, "get", "list")

    eventually_check(
        database, verified, f"rights/{namespace}", lambda c: "list" in c["excess"]
    )
    assert database.read(verified, "verification_state") == "excess"
    refused(database, verified, "action_activate", "beyond the needed")


def test_an_acceptance_for_one_namespace_is_none_for_another(
    database, control_plane, verified, namespace, other_namespace
):
    list_namespace(database, verified, other_namespace)
    set_excess(control_plane, namespace, "get")
    eventually_check(database, verified, f"rights/{namespace}", lambda c: c["excess"])
    write(database, verified, excess_reason="The operator shares this account.")
    call(database, verified, "action_accept_excess")

    set_excess(control_plane, namespace)
    set_excess(control_plane, other_namespace, "get")

    eventually_check(
        database, verified, f"rights/{other_namespace}", lambda c: c["excess"]
    )
    eventually_check(
        database, verified, f"rights/{namespace}", lambda c: not c["excess"]
    )
    refused(database, verified, "action_activate", "beyond the needed")


def test_what_was_verified_before_the_address_changed_does_not_count(
    database, verified
):
    write(database, verified, server_url="https://elsewhere.example.com:6443")

    refused(database, verified, "action_activate", "[Vv]erify")


def test_a_cluster_that_says_it_is_another_one_is_not_activated(
    database, control_plane, namespace
):
    cluster = register(database, control_plane, cluster_id="mistaken")
    list_namespace(database, cluster, namespace)
    write(database, cluster, token=control_plane.service_account_token())
    with cluster_object(control_plane, IDENTITY):
        verify(database, cluster)

    line = next(c for c in read_checks(database, cluster) if c["key"] == "cluster")
    assert line["state"] == "failed"
    assert f"it is {IDENTITY}, not mistaken" in line["seen"]
    refused(database, cluster, "action_activate", "Identity of the cluster")


def test_rights_lost_after_activation_raise_one_activity(
    database, control_plane, verified, namespace
):
    call(database, verified, "action_activate")
    rules = get_rules(control_plane, namespace)
    rules[0]["verbs"].remove("patch")
    set_role(control_plane, namespace, rules)

    def daily_verification():
        database.sql("UPDATE vworkspace_cluster SET verified_at = NULL")
        database.run_cron("ir_cron_verify")
        found = activities(database, verified)
        return [a for a in found if a["summary"] == RIGHTS_CHANGED]

    (activity,) = eventually(daily_verification, what="an activity")
    assert "patch applicationinstances.apps.vworkspace.io" in activity["note"]
    assert f"{namespace}" in activity["note"]
    assert activity["user_id"][1] == "Mitchell Admin"
    assert len(daily_verification()) == 1
    assert database.read(verified, "state") == "active"


# === BAD INPUT === #


def users(**user):
    return lambda plane, _other: {"kubeconfig": kubeconfig(plane, user=user)}


def clusters(**cluster):
    return lambda plane, _other: {
        "kubeconfig": kubeconfig(plane, user={"token": "a-good-token"}, cluster=cluster)
    }


def certificate_only(plane, _other):
    return {"client_certificate": client_certificate(plane)[0]}


def key_only(plane, _other):
    return {"client_key": client_certificate(plane)[1]}


def anothers_key(plane, other):
    return {"client_certificate": client_certificate(plane)[0], "client_key": other[1]}


def encrypted_key(plane, _other):
    certificate, key = client_certificate(plane, password=b"a-password")
    return {"client_certificate": certificate, "client_key": key}


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\nkind: Config\napiVersion: v1\n"
BAD = {
    "exec": (users(exec={"command": "sh"}), '"exec"'),
    "auth-provider": (users(**{"auth-provider": {"name": "gcp"}}), '"auth-provider"'),
    "tokenFile": (users(tokenFile="/etc/passwd"), '"tokenFile"'),
    "client key path": (users(**{"client-key": "/root/key"}), '"client-key"'),
    "password": (users(username="admin", password="hunter2"), '"username"'),
    "impersonation": (users(token="a-good-token", **{"as": "root"}), '"as"'),
    "CA path": (clusters(**{"certificate-authority": "/etc/ca"}), "names a file"),
    "proxy": (clusters(**{"proxy-url": "http://evil:1"}), '"proxy-url"'),
    "insecure": (clusters(**{"insecure-skip-tls-verify": True}), "insecure-skip"),
    "plain HTTP": (clusters(server="http://10.0.0.1"), "https"),
    "a megabyte": (lambda *_: {"kubeconfig": "x" * 1_000_000}, "larger than 64 KiB"),
    "binary": (lambda *_: {"kubeconfig": "\x7fELF\x00\x01"}, "not a text file"),
    "alias bomb": (lambda *_: {"kubeconfig": BOMB}, "cannot be read"),
    "token with a blank": (lambda *_: {"token": "one two"}, "blanks or line breaks"),
    "token in two lines": (lambda *_: {"token": "one\ntwo"}, "blanks or line breaks"),
    "both": (
        lambda plane, _: {**users(token="a-good-token")(plane, _), "token": "a-token"},
        "not both",
    ),
    "certificate without key": (certificate_only, "key"),
    "key without certificate": (key_only, "certificate"),
    "key of another": (anothers_key, "key"),
    "encrypted key": (encrypted_key, "encrypted"),
    "CA that is none": (lambda *_: {"ca_certificate": "trust me"}, "not a certificate"),
    "insecure production": (lambda *_: {"insecure": True}, "test cluster only"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_a_sentence_and_nothing_is_stored(
    database, control_plane, unregistered, anothers, case
):
    from odoo.exceptions import ValidationError

    values, sentence = BAD[case]
    before = database.read(unregistered, "server_url", "ca_certificate", "insecure")

    with pytest.raises(ValidationError, match=re.escape(sentence)) as refusal:
        write(database, unregistered, **values(control_plane, anothers))

    text = str(refusal.value)
    assert len(text) < 400
    assert not any(secret in text for secret in ("hunter2", "a-good-token", "PRIVATE"))
    after = database.read(unregistered, "server_url", "ca_certificate", "insecure")
    assert after == before
    assert database.read(unregistered, "has_candidate") is False


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("https://127.0.0.1:6443", "this machine itself"),
        ("https://localhost:6443", "this machine itself"),
        ("https://[::1]:6443", "this machine itself"),
        ("https://169.254.169.254", "the metadata service of a cloud"),
        ("https://[::ffff:169.254.169.254]", "the metadata service of a cloud"),
        ("https://169.254.1.1", "a link-local address"),
        ("https://0.0.0.0:6443", "an unspecified address"),
        ("https://224.0.0.1", "a multicast address"),
    ],
)
def test_no_connection_is_made_to_addresses_that_no_cluster_has(
    database, control_plane, monkeypatch, address, sentence
):
    from odoo.exceptions import UserError

    monkeypatch.delenv("VWORKSPACE_PUSH_ALLOW_LOOPBACK")
    cluster = register(database, control_plane, server_url=address)
    write(database, cluster, token=control_plane.service_account_token())

    with pytest.raises(UserError, match=sentence):
        call(database, cluster, "action_fetch_certificate")
    verify(database, cluster)

    line = next(c for c in read_checks(database, cluster) if c["key"] == "reach")
    assert (line["state"], sentence in line["seen"]) == ("failed", True)
    refused(database, cluster, "action_activate", "Name and address")


def test_a_test_cluster_may_go_without_checking_the_certificate(
    database, control_plane, namespace
):
    cluster = register(
        database, control_plane, ca_certificate=False, is_test=True, insecure=True
    )
    list_namespace(database, cluster, namespace)
    write(database, cluster, token=control_plane.service_account_token())
    verify(database, cluster)

    assert check_state(database, cluster, "tls") == "warning"


def test_a_kubeconfig_that_checks_no_certificate_is_taken_on_a_test_cluster(
    database, control_plane
):
    cluster = register(database, control_plane, ca_certificate=False, is_test=True)
    text = kubeconfig(
        control_plane,
        user={"token": control_plane.service_account_token()},
        cluster={
            "insecure-skip-tls-verify": True,
            "certificate-authority-data": None,
        },
    )

    write(database, cluster, kubeconfig=text)

    assert database.read(cluster, "insecure") is True


# === FIXTURES === #


@pytest.fixture(autouse=True)
def alone(database):
    """One cluster at a time may have the identity that the cluster itself names."""
    yield
    database.sql(
        """UPDATE vworkspace_cluster
              SET cluster_id = 'done-' || id, state = 'revoked', active = FALSE"""
    )


@pytest.fixture
def spy(database, monkeypatch):
    return Spy(monkeypatch)


@pytest.fixture
def guard(control_plane):
    """An admission, and a cluster that knows its identity."""
    install_guard(control_plane)
    with cluster_object(control_plane, IDENTITY):
        yield
    remove_guard(control_plane)


@pytest.fixture
def fresh_namespace(control_plane, namespace):
    """A namespace with no label of ours and no rights, as an admin finds it."""
    name = f"{namespace}-fresh"
    make_namespace(control_plane, name, gated=False)
    return name


@pytest.fixture
def other_namespace(control_plane, namespace):
    name = f"{namespace}-other"
    control_plane.create_namespace(name)
    control_plane.grant([name])
    return name


@pytest.fixture
def unregistered(database, control_plane):
    return register(database, control_plane)


@pytest.fixture(scope="module")
def anothers(control_plane):
    return client_certificate(control_plane)


@pytest.fixture
def verified(database, control_plane, namespace):
    """A cluster with a verified candidate and exactly the rights that are needed."""
    cluster = register(database, control_plane)
    list_namespace(database, cluster, namespace)
    write(database, cluster, token=control_plane.service_account_token())
    verify(database, cluster)
    assert database.read(cluster, "verification_state") == "passed"
    return cluster


class Pod:
    """The files that Kubernetes projects into a pod."""

    def __init__(self, folder, control_plane):
        self._token = folder / "token"
        self._control_plane = control_plane
        (folder / "ca.crt").write_text(control_plane.ca_pem)

    def rotate(self):
        """Replace the token as the kubelet does, by a rename; return the new one."""
        token = RevocableToken(self._control_plane).text
        new = self._token.with_suffix(".new")
        new.write_text(token)
        new.replace(self._token)
        return token


@pytest.fixture
def pod(database, control_plane, tmp_path, monkeypatch):
    from odoo.addons.vworkspace_push.models import vworkspace_cluster_credential

    monkeypatch.setattr(vworkspace_cluster_credential, "IN_CLUSTER_FOLDER", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    made = Pod(tmp_path, control_plane)
    made.rotate()
    return made


@pytest.fixture
def store_form(database, control_plane, pod):
    """For each form of credential, a function that stores one."""
    token = control_plane.service_account_token()
    certificate, key = client_certificate(control_plane)
    text = kubeconfig(control_plane, user={"token": token})
    mtls = {"token": token, "client_certificate": certificate, "client_key": key}
    return {
        "token": lambda c: write(database, c, token=token),
        "kubeconfig": lambda c: write(database, c, kubeconfig=text),
        "mtls": lambda c: write(database, c, **mtls),
        "in_cluster": lambda c: call(database, c, "action_use_in_cluster"),
    }


# === HELPERS === #


def read_checks(database, cluster):
    with database.transaction() as env:
        checks = env[cluster._name].browse(cluster.ids).check_ids
        return [
            {name: check[name] or "" for name in ("key", "title", "state", "required")}
            | {name: check[name] or "" for name in ("seen", "missing", "excess")}
            for check in checks
        ]


def check_state(database, cluster, key):
    return next(c["state"] for c in read_checks(database, cluster) if c["key"] == key)


def required_failures(database, cluster):
    checks = read_checks(database, cluster)
    return [c for c in checks if c["required"] and c["state"] in ("failed", "skipped")]


def eventually_check(database, cluster, key, condition):
    """Verify until the line fulfils the condition: RBAC takes effect with a delay."""

    def verified_line():
        verify(database, cluster)
        line = next(c for c in read_checks(database, cluster) if c["key"] == key)
        return line if condition(line) else None

    return eventually(verified_line, what=f"the line {key} to change")


def set_excess(control_plane, namespace, *verbs):
    """Let the account do this to secrets as well, or no longer."""
    rules = [r for r in get_rules(control_plane, namespace) if r["apiGroups"] != [""]]
    if verbs:
        secrets = {"apiGroups": [""], "resources": ["secrets"], "verbs": list(verbs)}
        rules.append(secrets)
    set_role(control_plane, namespace, rules)


def usable(database, cluster):
    with database.transaction() as env:
        namespaces = env[cluster._name].browse(cluster.ids).namespace_ids
        return {n.name: n.usable for n in namespaces}


def messages(database, cluster, text):
    domain = [("model", "=", cluster._name), ("res_id", "=", cluster.id)]
    with database.transaction() as env:
        return env["mail.message"].search_count([*domain, ("body", "ilike", text)])


def run_printed_commands(database, cluster, control_plane, folder):
    """Run what the page prints, as it stands; return what the last command printed."""
    page = database.read(cluster, "rights_file", "rights_commands")
    (folder / "vworkspace-rights.yaml").write_bytes(
        base64.b64decode(page["rights_file"])
    )
    commands = page["rights_commands"].partition("# Or, ")[0]
    assert f"create token {SERVICE_ACCOUNT}" in commands
    environment = control_plane.kubectl_environment()
    path = f"{program('kubectl').parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e"],
        input=commands,
        cwd=folder,
        env={**environment, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
