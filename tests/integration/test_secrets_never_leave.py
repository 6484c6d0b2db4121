"""Every secret of a run that stores each form of credential, looked for everywhere: in
the database, in the log, in what the interface answers, and in files.
"""

import io
import json
import logging
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.test_credentials import find_in_database
from tests.registration import (
    CLUSTER,
    RevocableToken,
    call,
    client_certificate,
    kubeconfig,
    list_namespace,
    make_application,
    register,
    verify,
    write,
)

CREDENTIAL = "vworkspace.cluster.credential"
MODELS = (
    CLUSTER,
    CREDENTIAL,
    "vworkspace.cluster.check",
    "vworkspace.cluster.namespace",
)


def test_the_search_finds_a_secret_wherever_one_is_put(run, database, tmp_path):
    """Without this, a search that looks nowhere would pass."""
    database.sql("UPDATE res_partner SET comment = 'the-canary' WHERE id = 1")
    logging.getLogger("odoo.addons.vworkspace_push").info("the-canary")
    (tmp_path / "left-behind").write_text("the-canary")

    assert find_in_database(database, "the-canary") == ["res_partner"]
    assert "the-canary" in run.log.getvalue()
    files = files_changed(tmp_path, since=run.began)
    assert holders(files, [("canary", "the-canary")])


def test_the_database_holds_no_secret_in_clear(run, database):
    found = {name: find_in_database(database, secret) for name, secret in run.secrets}

    assert found == {name: [] for name, _secret in run.secrets}


def test_no_answer_of_the_interface_holds_a_secret(run, database):
    answers = {}
    for model in MODELS:
        answers |= {(model, k): v for k, v in everything_readable(database, model)}
    for name in ("mail.message", "bus.bus", "ir.attachment", "ir.logging"):
        answers[name, "search_read"] = read_all(database, name)

    assert len(answers) > 30
    assert {
        (where, name)
        for where, answer in answers.items()
        for name, secret in run.secrets
        if secret in answer
    } == set()


def test_what_was_answered_during_the_run_holds_no_secret(run):
    assert len(run.answers) > 20
    assert [
        name
        for answer in run.answers
        for name, secret in run.secrets
        if secret in answer
    ] == []


def test_the_log_of_the_run_holds_no_secret(run):
    text = run.log.getvalue()

    assert "127.0.0.1" in text  # urllib3's own, at its most talkative
    assert [name for name, secret in run.secrets if secret in text] == []


def test_no_file_that_appeared_meanwhile_holds_a_secret(run, work):
    folders = {work, *entries_changed(Path(tempfile.gettempdir()), since=run.began)}

    files = {f for folder in folders for f in files_changed(folder, since=run.began)}
    own = {f for f in files if any(f.is_relative_to(a) for a in run.allowed)}

    assert len(files) > 10  # the server's logs and data at least
    assert holders(files - own, run.secrets) == set()


# === FIXTURES === #


class Run:
    """What one pass through each form of credential left behind."""

    def __init__(self):
        self.began = time.time()
        self.log = io.StringIO()
        self.answers = []
        self.secrets = []
        self.allowed = ()


@pytest.fixture(scope="module")
def run(database, control_plane, tmp_path_factory):
    """Store, verify, activate, use, replace and erase each form; fail with some."""
    found = Run()
    handler = logging.StreamHandler(found.log)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(
            type(database), "call", remember_answers(type(database).call, found.answers)
        )
        try:
            go_through_all_forms(
                database, control_plane, found, patches, tmp_path_factory.mktemp("pod")
            )
        finally:
            root.setLevel(level)
    yield found
    root.removeHandler(handler)


def go_through_all_forms(database, control_plane, found, patches, pod):
    from odoo.exceptions import UserError

    from odoo.addons.vworkspace_push.models import vworkspace_cluster_credential

    namespace = "test-secrets"
    control_plane.create_namespace(namespace)
    control_plane.grant([namespace])
    patches.setattr(vworkspace_cluster_credential, "IN_CLUSTER_FOLDER", pod)
    patches.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    tokens = {
        name: RevocableToken(control_plane).text
        for name in ("token", "kubeconfig", "mtls", "pod", "renewed")
    }
    certificate, key = client_certificate(control_plane)
    (pod / "token").write_text(tokens["pod"])
    (pod / "ca.crt").write_text(control_plane.ca_pem)
    found.allowed = (pod,)
    text = kubeconfig(control_plane, user={"token": tokens["kubeconfig"]})
    wrong = {
        "broken token": "a-secret that-was-cut",
        "wrong token": "a-wrong-token-0123456789abcdef",
        "broken key": key.replace("\n", "")[:100],
    }
    found.secrets = [
        *tokens.items(),
        *((name, line) for name, line in wrong.items()),
        ("signature", tokens["token"].rpartition(".")[2]),
        *((f"key line {i}", line) for i, line in enumerate(key.split("\n")[1:3])),
        ("key in JSON", json.dumps(key)[40:100]),
    ]

    cluster = register(database, control_plane)
    list_namespace(database, cluster, namespace)
    call(database, cluster, "action_fetch_certificate")
    forms = [
        lambda: write(database, cluster, token=tokens["token"]),
        lambda: write(database, cluster, kubeconfig=text),
        lambda: write(
            database,
            cluster,
            token=tokens["mtls"],
            client_certificate=certificate,
            client_key=key,
        ),
        lambda: call(database, cluster, "action_use_in_cluster"),
        lambda: write(database, cluster, token=tokens["renewed"]),
    ]
    application = None
    for store in forms:
        store()
        verify(database, cluster)
        call(database, cluster, "action_activate")
        application = application or make_application(database, cluster)
        call(database, application, "action_send_again")
        call(database, cluster, "action_test_connection")
        assert database.read(application, "delivery_state") == "applied"
    bad = [
        {"token": wrong["broken token"]},
        {"client_key": key},
        {"client_certificate": certificate, "client_key": wrong["broken key"]},
        {"kubeconfig": text + "\0"},
        {"kubeconfig": text.replace('"token":', '"password": "x", "token":')},
    ]
    for values in bad:
        with pytest.raises(UserError) as refusal:
            write(database, cluster, **values)
        found.answers.append(f"{refusal.value!r} {refusal.value}")
    write(database, cluster, token=wrong["wrong token"])
    verify(database, cluster)  # is refused
    for method, *arguments in (
        ("onchange", {"token": tokens["token"]}, ["token"], {"token": {}, "name": {}}),
        ("web_save", {"token": tokens["token"]}, {"token": {}, "has_candidate": {}}),
        ("copy_data",),
    ):
        database.call("admin", CLUSTER, method, cluster.ids, *arguments)


def remember_answers(real, answers):
    def call(database, *arguments, **options):
        answer = real(database, *arguments, **options)
        answers.append(repr(answer))
        return answer

    return call


# === HELPERS === #


def everything_readable(database, model):
    """Yield what each reading method gives of all records of a model."""
    with database.transaction() as env:
        records = env[model].with_context(active_test=False).search([])
        names = list(env[model].fields_get())
        superuser = repr(records.sudo().read())
    specification = {name: {} for name in names}
    ids = records.ids
    assert ids
    yield "sudo read", superuser
    calls = [
        ("read", ids, names),
        ("web_read", ids, specification),
        ("search_read", [], names),
        ("web_search_read", [], specification),
        ("export_data", ids, names),
        ("copy_data", ids),
        ("default_get", names),
        ("fields_get",),
        ("name_search", ""),
        ("get_metadata", ids),
    ]
    for method, *arguments in calls:
        yield method, repr(database.call("admin", model, method, *arguments))


def read_all(database, model):
    with database.transaction() as env:
        return repr(env[model].sudo().search([]).read())


def entries_changed(folder, *, since):
    return {path for path in folder.iterdir() if path.lstat().st_mtime >= since}


def files_changed(folder, *, since):
    """Return the files at or below `folder` that changed since then."""
    found = set()
    for path in (folder, *folder.rglob("*")):
        with suppress(OSError):  # gone meanwhile
            if path.is_file() and path.stat().st_mtime >= since:
                found.add(path)
    return found


def holders(files, secrets):
    """Return which file holds which secret."""
    found = set()
    for path in files:
        with suppress(OSError):
            content = path.read_bytes()
            found |= {
                (path, name) for name, text in secrets if text.encode() in content
            }
    return found
