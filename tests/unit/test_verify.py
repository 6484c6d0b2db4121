"""The checklist, against a cluster whose answers are scripted."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kube import reviews
from kube.access import Profile, Right
from kube.address import AddressPolicy
from kube.connection import Connection, Settings
from kube.verify import MAX_REQUESTS, Check, verify
from tests.unit.fakes import (
    Answer,
    Certificate,
    FakeServer,
    Handler,
    make_certificate,
    status,
)
from tests.unit.test_tokens import make_token

ACCESS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
RULES = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
WHO = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
CLUSTERS = "/apis/ops.vworkspace.io/v1alpha1/clusters"
ACCOUNT = "system:serviceaccount:vworkspace-system:vworkspace-control-plane"
NOW = datetime.now(UTC)
SERVED = {
    "apps.vworkspace.io": ["applicationinstances"],
    "ops.vworkspace.io": ["operations", "clusters"],
}


def _always(body: Any) -> Answer:
    return lambda handler: handler.reply(body)


class FakeCluster:
    """A healthy cluster of which a test changes what it is about."""

    def __init__(self, server: FakeServer, namespaces: list[str]) -> None:
        self.server = server
        self.namespaces = namespaces
        self.profile = Profile()
        self.granted: dict[str, set[Right]] = {
            namespace: set(self.profile.in_namespace(namespace, gated=True))
            for namespace in namespaces
        }
        self.everywhere: set[Right] = set(self.profile.cluster_wide)
        self.urls = ["/api/*", "/version"]
        self.complete = True
        self.cluster_ids = ["c-1"]
        self.refusals: dict[str, str] = {}  # namespace → why no canary passes
        self.admission = True
        self._set_up()

    def _set_up(self) -> None:
        on = self.server.on
        on("/version", lambda h: h.reply({"gitVersion": "v1.37.2"}))
        user = {"username": ACCOUNT, "groups": ["system:serviceaccounts"]}
        on(WHO, lambda h: h.reply({"status": {"userInfo": user}}, status=201))
        for group, plurals in SERVED.items():
            on(f"/apis/{group}", _always({"versions": [{"version": "v1alpha1"}]}))
            kinds = [{"name": plural} for plural in plurals]
            on(f"/apis/{group}/v1alpha1", _always({"resources": kinds}))
        on(CLUSTERS, lambda h: h.reply(self._clusters()))
        on(ACCESS, lambda h: h.reply({"status": self._access(h)}, status=201))
        on(RULES, lambda h: h.reply({"status": self._rules(h)}, status=201))
        self.server.otherwise = self._admit

    def _clusters(self) -> dict[str, Any]:
        namespaces = [{"name": "shop", "allowedTemplates": []}]
        return {
            "items": [
                {
                    "spec": {"clusterId": name},
                    "status": {"phase": "Connected", "managedNamespaces": namespaces},
                }
                for name in self.cluster_ids
            ]
        }

    def _access(self, handler: Handler) -> Mapping[str, Any]:
        asked = handler.asked.body["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, (asked["resource"], asked["subresource"])))
        right = Right(asked["verb"], asked["group"], resource, asked["name"])
        namespace = asked["namespace"]
        return {
            "allowed": right in self.everywhere | self.granted.get(namespace, set())
        }

    def _rules(self, handler: Handler) -> Mapping[str, Any]:
        namespace = handler.asked.body["spec"]["namespace"]
        rights = reviews.BASELINE | self.everywhere | self.granted.get(namespace, set())
        return {
            "incomplete": not self.complete,
            "resourceRules": [
                {
                    "verbs": [right.verb],
                    "apiGroups": [right.group],
                    "resources": [right.resource],
                    "resourceNames": [right.name] if right.name else None,
                }
                for right in sorted(rights)
            ],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": self.urls}],
        }

    def _admit(self, handler: Handler) -> None:
        """Answer the dry run of a canary."""
        manifest = handler.asked.body
        namespace = manifest["metadata"]["namespace"]
        why = self.refusals.get(namespace, "")
        if self.admission and manifest["spec"]["release"]["namespace"] != namespace:
            why = why or "spec.release.namespace: must be that of the object"
        if why:
            words = f'admission webhook "a" denied the request: {why}'
            handler.reply(status(403, "Forbidden", words), status=403)
            return
        assert "dryRun=All" in handler.asked.query
        handler.reply(manifest | {"metadata": {"uid": "u"}}, status=201)

    def verify(self, connection: Connection, **options: Any) -> dict[str, Check]:
        checks = verify(
            connection,
            **{"cluster_id": "c-1", "namespaces": self.namespaces, **options},
        )
        json.dumps([check.data for check in checks])
        return {check.key: check for check in checks}


@pytest.fixture
def cluster(server: FakeServer) -> FakeCluster:
    return FakeCluster(server, ["shop"])


@pytest.fixture
def two(server: FakeServer) -> FakeCluster:
    """Return a cluster with two namespaces."""
    return FakeCluster(server, ["shop", "blog"])


@pytest.fixture
def settings(server: FakeServer, long_lived: Certificate) -> Settings:
    return Settings(server=server.url, ca_pem=long_lived.pem)


@pytest.fixture(scope="session")
def long_lived(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("long"), days=300)


@pytest.fixture
def server(long_lived: Certificate) -> Iterator[FakeServer]:
    fake = FakeServer(long_lived)
    yield fake
    fake.stop()


def _states(checks: Mapping[str, Check]) -> dict[str, str]:
    return {key: c.state for key, c in checks.items() if c.state != "ok"}


def _with_token(settings: Settings, token: str) -> Connection:
    return Connection(settings, token=lambda: token)


# === ALL WELL === #


def test_healthy_cluster_passes_every_line(
    two: FakeCluster, connection: Connection
) -> None:
    seen: list[Check] = []
    checks = two.verify(connection, on_check=seen.append)
    assert _states(checks) == {}
    assert list(checks) == [
        "reach",
        "tls",
        "version",
        "user",
        "definitions",
        "cluster",
        "rights",
        "rights/shop",
        "gate/shop",
        "rights/blog",
        "gate/blog",
        "clock",
        "token",
        "ca",
    ]
    assert {check.key: check for check in seen} == checks
    assert all(check.seen.endswith(".") for check in seen)
    assert checks["version"].data == {"version": "v1.37.2"}
    assert checks["cluster"].data["namespaces"] == ["shop"]
    assert checks["definitions"].data == {
        "ApplicationInstance": ["v1alpha1"],
        "Operation": ["v1alpha1"],
        "Cluster": ["v1alpha1"],
    }


def test_lines_are_reported_in_the_callers_thread(
    cluster: FakeCluster, connection: Connection
) -> None:
    threads = set()
    cluster.verify(connection, on_check=lambda _: threads.add(threading.get_ident()))
    assert threads == {threading.get_ident()}


def test_at_most_four_requests_run_at_once(
    server: FakeServer, connection: Connection
) -> None:
    """The first ones are held until there are four of them."""
    cluster = FakeCluster(server, [f"team-{i}" for i in range(10)])
    running, most, lock, four = [0], [0], threading.Lock(), threading.Event()

    def counted(answer: Answer) -> Answer:
        def count(handler: Handler) -> None:
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            if running[0] == MAX_REQUESTS:
                four.set()
            if handler.asked.path in (ACCESS, RULES):
                four.wait(5)
            with lock:
                running[0] -= 1
            answer(handler)

        return count

    for path, answers in server._answers.items():
        server.on(path, *map(counted, answers))
    server.otherwise = counted(server.otherwise)
    assert _states(cluster.verify(connection)) == {}
    assert most == [MAX_REQUESTS]


# === THE SERVER === #


def test_refused_address_skips_what_needs_the_server(
    cluster: FakeCluster, settings: Settings
) -> None:
    strict = dataclasses.replace(settings, address_policy=AddressPolicy())
    checks = cluster.verify(_with_token(strict, "t"))
    assert checks["reach"].state == "failed"
    assert checks["token"].state == checks["ca"].state == "ok"
    skipped = {key for key, state in _states(checks).items() if state == "skipped"}
    assert skipped == set(checks) - {"reach", "token", "ca"}
    assert all(checks[key].data == {"because": "reach"} for key in skipped)
    assert "Name and address" in checks["rights/shop"].seen


def test_other_ca_shows_what_the_server_presents(
    cluster: FakeCluster, settings: Settings, certificate: Certificate
) -> None:
    other = dataclasses.replace(settings, ca_pem=certificate.pem)
    checks = cluster.verify(_with_token(other, "t"))
    assert checks["reach"].state == "ok"
    assert checks["tls"].state == "failed"
    assert checks["tls"].data["certificates"][0]["subject"] == "CN=good"
    assert checks["user"].state == "skipped"


def test_insecure_is_warned_about(cluster: FakeCluster, settings: Settings) -> None:
    insecure = dataclasses.replace(settings, insecure=True)
    assert _states(cluster.verify(_with_token(insecure, "t"))) == {"tls": "warning"}


@pytest.mark.parametrize(
    "answer",
    [
        lambda h: h.reply(b"<html>Log in</html>", content_type="text/html"),
        lambda h: h.reply(b"", status=302, headers={"Location": "https://x"}),
        lambda h: h.reply(b"[" * 10_000 + b"]" * 10_000),
        lambda h: h.reply(b"[" * 10_000),
        lambda h: h.reply({"version": "5"}),
        lambda h: h.reply([]),
        lambda h: h.reply({"message": "no"}, status=503),
    ],
    ids=["html", "redirect", "nested", "unclosed", "other service", "list", "503"],
)
def test_other_service_fails_the_version_and_skips_the_rest(
    cluster: FakeCluster, connection: Connection, answer: Callable[[Handler], None]
) -> None:
    cluster.server.on("/version", answer)
    checks = cluster.verify(connection)
    assert checks["tls"].state == "ok"
    assert checks["version"].state == "failed"
    assert "Log in" not in checks["version"].seen
    assert checks["rights"].state == checks["gate/shop"].state == "skipped"


def test_huge_answer_fails_the_version(
    cluster: FakeCluster, settings: Settings
) -> None:
    cluster.server.on("/version", lambda h: h.reply(b" " * 300_000))
    small = dataclasses.replace(settings, max_response_bytes=100_000)
    checks = cluster.verify(_with_token(small, "t"))
    assert "larger than" in checks["version"].seen


def test_server_that_never_answers_fails_in_time(
    cluster: FakeCluster, settings: Settings
) -> None:
    cluster.server.on("/version", lambda h: h.hold())
    hasty = dataclasses.replace(settings, read_timeout=0.2)
    checks = cluster.verify(_with_token(hasty, "t"))
    assert checks["version"].state == "failed"
    assert checks["version"].data == {"reason": "ReadTimeout"}


def test_server_without_tls_is_reached_and_fails_the_certificate(
    settings: Settings, server: FakeServer
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for _ in range(2):
                sock, _address = listener.accept()
                sock.recv(10)
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                sock.close()

        threading.Thread(target=answer, daemon=True).start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        plain = dataclasses.replace(settings, server=url)
        checks = FakeCluster(server, []).verify(_with_token(plain, "t"))
    assert checks["reach"].state == "ok"
    assert "does not speak TLS" in checks["tls"].seen


def test_refused_token_fails_the_user_alone(
    cluster: FakeCluster, connection: Connection
) -> None:
    for path in ("/version", WHO):
        cluster.server.on(path, lambda h: h.reply({}, status=401))
    checks = cluster.verify(connection)
    assert checks["version"].state == "warning"
    assert checks["user"].state == "failed"
    assert checks["user"].todo
    assert checks["rights"].state == "skipped"


@pytest.mark.parametrize(
    ("name", "state"), [("admin", "warning"), ("system:anonymous", "failed")]
)
def test_other_account_is_noticed(
    cluster: FakeCluster, connection: Connection, name: str, state: str
) -> None:
    user = {"username": name}
    cluster.server.on(WHO, lambda h: h.reply({"status": {"userInfo": user}}))
    found = cluster.verify(connection)["user"]
    assert found.state == state
    assert found.data["username"] == name


def test_missing_definitions_skip_what_needs_them_alone(
    cluster: FakeCluster, connection: Connection
) -> None:
    cluster.server.on("/apis/ops.vworkspace.io/v1alpha1", lambda h: h.reply({}))
    checks = cluster.verify(connection)
    assert "Operation" in checks["definitions"].seen
    assert checks["cluster"].state == checks["gate/shop"].state == "skipped"
    assert checks["rights/shop"].state == "ok"


@pytest.mark.parametrize(
    ("ids", "state"), [(["c-2"], "failed"), ([], "warning"), (["c-2", "c-1"], "ok")]
)
def test_identity_of_the_cluster_is_compared(
    cluster: FakeCluster, connection: Connection, ids: list[str], state: str
) -> None:
    cluster.cluster_ids, cluster.namespaces = ids, []
    found = cluster.verify(connection)["cluster"]
    assert found.state == state
    assert found.data["cluster_ids"] == ids


@pytest.mark.parametrize(
    ("ahead", "state", "words"),
    [(0, "ok", "agree"), (300, "warning", "ahead of"), (-300, "warning", "behind")],
)
def test_difference_of_the_clocks_is_told(
    cluster: FakeCluster, connection: Connection, ahead: int, state: str, words: str
) -> None:
    cluster.namespaces = []
    found = cluster.verify(
        connection, now=lambda: datetime.now(UTC) + timedelta(seconds=ahead)
    )["clock"]
    assert found.state == state
    assert words in found.seen
    assert not found.required


# === RIGHTS === #


def test_right_that_was_removed_and_one_that_was_added_are_named(
    two: FakeCluster, connection: Connection
) -> None:
    group = "apps.vworkspace.io"
    two.granted["shop"].remove(Right("delete", group, "applicationinstances"))
    two.granted["shop"].add(Right("get", "", "secrets"))
    checks = two.verify(connection)
    assert _states(checks) == {"rights/shop": "failed"}
    data = checks["rights/shop"].data
    assert data["missing"] == ["delete applicationinstances.apps.vworkspace.io"]
    assert data["excess"] == ["get secrets"]
    assert data["namespace"] == "shop"


def test_excess_alone_is_a_warning(two: FakeCluster, connection: Connection) -> None:
    two.granted["blog"].add(Right("create", "", "pods"))
    checks = two.verify(connection)
    assert _states(checks) == {"rights/blog": "warning"}
    assert "create pods" in checks["rights/blog"].seen


def test_right_in_all_namespaces_is_told_once(
    cluster: FakeCluster, connection: Connection
) -> None:
    cluster.everywhere.add(Right("list", "", "secrets"))
    cluster.urls.append("/metrics")
    checks = cluster.verify(connection)
    assert _states(checks) == {"rights": "warning"}
    assert checks["rights"].data["excess"] == ["get /metrics", "list secrets"]
    assert checks["rights"].data["red_flags"] == ["list secrets"]
    assert "what holds everywhere" in checks["rights/shop"].seen


@pytest.mark.parametrize("namespace", ["kube-system", "vworkspace-system"])
def test_right_where_we_have_no_business_is_told(
    cluster: FakeCluster, connection: Connection, namespace: str
) -> None:
    cluster.granted[namespace] = {Right("get", "", "secrets")}
    data = cluster.verify(connection)["rights"].data
    assert data["excess"] == [f"get secrets in {namespace}"]


def test_missing_right_on_clusters_is_told(
    cluster: FakeCluster, connection: Connection
) -> None:
    cluster.everywhere.remove(Right("watch", "ops.vworkspace.io", "clusters"))
    found = cluster.verify(connection)["rights"]
    assert found.state == "failed"
    assert found.data["missing"] == ["watch clusters.ops.vworkspace.io"]


def test_opted_in_rights_are_expected_when_they_are_opted_in(
    cluster: FakeCluster, connection: Connection
) -> None:
    profile = Profile(cluster_read=True, self_renewal=True)
    missing = cluster.verify(connection, profile=profile)["rights"].data["missing"]
    assert len(missing) == 7
    cluster.everywhere |= profile.cluster_wide
    cluster.granted["vworkspace-system"] = {profile.renewal}
    assert _states(cluster.verify(connection, profile=profile)) == {}
    excess = cluster.verify(connection)["rights"].data["excess"]
    assert len(excess) == 7


def test_wildcard_is_everything_in_words(
    cluster: FakeCluster, connection: Connection
) -> None:
    cluster.everywhere.add(Right("*", "*", "*"))
    found = cluster.verify(connection)["rights"]
    assert "More than needed: everything." in found.seen
    assert found.data["excess"] == ["* *.*"]


def test_where_the_server_cannot_list_rights_the_dangerous_ones_are_asked_for(
    two: FakeCluster, connection: Connection
) -> None:
    """As with a cloud's own authorizer, which allows what it does not list."""
    two.complete = False
    answer = two.server._answers[ACCESS][0]

    def allow_secrets(handler: Handler) -> None:
        asked = handler.asked.body["spec"]["resourceAttributes"]
        if (asked["resource"], asked["namespace"]) == ("secrets", "shop"):
            handler.reply({"status": {"allowed": True}})
        else:
            answer(handler)

    two.server.on(ACCESS, allow_secrets)
    checks = two.verify(connection)
    assert checks["rights/shop"].data["excess"] == ["get secrets", "list secrets"]
    assert checks["rights/blog"].state == "warning"
    assert not checks["rights/blog"].data["complete"]


def test_refused_review_fails_its_line_alone(
    cluster: FakeCluster, connection: Connection
) -> None:
    cluster.server.on(RULES, lambda h: h.reply({}, status=500))
    checks = cluster.verify(connection)
    assert checks["rights/shop"].state == "failed"
    assert checks["gate/shop"].state == checks["cluster"].state == "ok"


# === ADMISSION === #


def test_ungated_namespace_is_told_with_the_command(
    two: FakeCluster, connection: Connection
) -> None:
    two.refusals["shop"] = "namespace is not managed"
    checks = two.verify(connection)
    assert _states(checks) == {"gate/shop": "failed"}
    assert "not managed" in checks["gate/shop"].seen
    assert "kubectl label namespace shop managed-by=vworkspace" in (
        checks["gate/shop"].todo
    )


def test_admission_that_refuses_nothing_is_a_warning(
    two: FakeCluster, connection: Connection
) -> None:
    two.admission = False
    states = _states(two.verify(connection))
    assert states == {"gate/shop": "warning", "gate/blog": "warning"}


# === EXPIRY === #


def _token_check(
    cluster: FakeCluster, settings: Settings, *, lived: float, left: float, **more: Any
) -> Check:
    """Verify with a token that lived and has left that many days."""
    token = make_token(
        sub=ACCOUNT,
        iat=(NOW - timedelta(days=lived)).timestamp(),
        exp=(NOW + timedelta(days=left)).timestamp(),
    )
    cluster.namespaces = []
    connection = _with_token(settings, token)
    return cluster.verify(connection, now=lambda: NOW, **more)["token"]


@pytest.mark.parametrize(
    ("lived", "left", "state", "words"),
    [
        (1, 100, "ok", "in 100 days"),
        (1, 10, "warning", "in 10 days"),
        (81, 19, "warning", "in 19 days"),
        (0.5, 0.02, "warning", "minutes"),
        (10, -1, "failed", "expired"),
        (-1, 100, "failed", "not valid before"),
    ],
)
def test_end_of_a_token_is_warned_about(
    cluster: FakeCluster,
    settings: Settings,
    lived: float,
    left: float,
    state: str,
    words: str,
) -> None:
    found = _token_check(cluster, settings, lived=lived, left=left)
    assert found.state == state
    assert words in found.seen
    assert found.data["subject"] == ACCOUNT


def test_token_that_is_renewed_may_be_short(
    cluster: FakeCluster, settings: Settings
) -> None:
    short = _token_check(cluster, settings, lived=0.2, left=0.8, token_is_renewed=True)
    assert short.state == "ok"
    old = _token_check(cluster, settings, lived=0.9, left=0.1, token_is_renewed=True)
    assert old.state == "warning"


def test_end_of_a_client_certificate_is_warned_about(
    cluster: FakeCluster, settings: Settings, certificate: Certificate
) -> None:
    mutual = dataclasses.replace(
        settings, client_cert_pem=certificate.pem, client_key_pem=certificate.key_pem
    )
    checks = cluster.verify(_with_token(mutual, ""))
    assert checks["client_certificate"].state == "warning"
    assert checks["token"].state == "ok"
    assert "BEGIN" not in str(checks)


def test_end_of_the_first_ca_is_warned_about(
    cluster: FakeCluster, settings: Settings, certificate: Certificate
) -> None:
    assert settings.ca_pem
    both = dataclasses.replace(settings, ca_pem=settings.ca_pem + certificate.pem)
    found = cluster.verify(_with_token(both, "t"))["ca"]
    assert found.state == "warning"
    assert not found.required


def test_no_line_shows_the_token(cluster: FakeCluster, settings: Settings) -> None:
    token = make_token(sub=ACCOUNT)
    assert token not in str(cluster.verify(_with_token(settings, token)))
    assert "s3cret x" not in str(cluster.verify(_with_token(settings, "s3cret x")))
