"""The checklist: is this cluster ready, and is the credential what it should be?

Each line says what was seen and, where it is not well, what to do. Lines run side by
side, at most four requests at once; one that needs another which failed is skipped
and says so, so that no failure hides what does not depend on it.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from . import reviews
from .access import Profile, served_kinds, server_user
from .address import host_and_port, resolve
from .apply import apply
from .certificates import (
    CertificateInfo,
    bundle_info,
    certificate_info,
    fetch_certificates,
)
from .connection import Connection, Response
from .errors import (
    Denied,
    Forbidden,
    KubeError,
    NotFound,
    TlsFailed,
    Unauthorized,
    bounded,
)
from .resources import (
    APPLICATION_INSTANCE,
    CLUSTER,
    GATE_LABEL,
    application_instance,
)
from .tokens import read_token

MAX_REQUESTS = 4  # at once
MAX_CLOCK_DIFFERENCE = 30.0  # s; the header that tells it is in whole seconds
EXPIRES_SOON = timedelta(days=14)
MOST_OF_LIFE = 0.8  # of its lifetime, after which it should be renewed
MAX_CLUSTERS = 100  # Cluster objects looked at
MAX_LISTED = 8  # rights in a sentence; all of them are in the data

State = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the checklist.

    :param required: the cluster cannot be used while this has failed or was skipped
    :param seen: one sentence or more, what was found
    :param todo: what a person can do, empty if nothing
    :param data: the same as facts, fit for JSON
    """

    key: str  # "tls", or with a namespace: "rights/shop"
    title: str
    state: State
    required: bool
    seen: str
    todo: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


def verify(
    connection: Connection,
    *,
    cluster_id: str,
    namespaces: Sequence[str],
    profile: Profile | None = None,
    token_is_renewed: bool = False,
    on_check: Callable[[Check], None] = lambda check: None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> tuple[Check, ...]:
    """Go through the checklist and return its lines, always all, in their order.

    :param cluster_id: the identity that the cluster's own object should have
    :param namespaces: that the connector should be able to write to
    :param profile: the rights that it should have; those of contract §5 by default
    :param token_is_renewed: somebody else renews it, as with a projected token
    :param on_check: called with each line as soon as it is known, in this thread
    :param now: the time, aware, for tests
    """
    run = _Verification(
        connection,
        cluster_id=cluster_id,
        profile=profile or Profile(),
        token_is_renewed=token_is_renewed,
        now=now,
    )
    return _run_lines(run.lines(dict.fromkeys(namespaces)), on_check=on_check)


# === LINES AND THEIR ORDER === #


@dataclass(frozen=True)
class _Found:
    """What came out of one line."""

    state: State
    seen: str
    todo: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Line:
    key: str
    title: str
    run: Callable[[], _Found]
    needs: tuple[str, ...] = ()
    required: bool = True

    def check(self, found: _Found) -> Check:
        return Check(
            key=self.key,
            title=self.title,
            state=found.state,
            required=self.required,
            seen=found.seen,
            todo=found.todo,
            data=found.data,
        )


def _run_lines(
    lines: Sequence[_Line], *, on_check: Callable[[Check], None]
) -> tuple[Check, ...]:
    """Run each line once those that it needs are done, and report as they end."""
    checks: dict[str, Check] = {}
    waiting = list(lines)
    running: dict[Future[_Found], _Line] = {}

    def report(line: _Line, found: _Found) -> None:
        checks[line.key] = line.check(found)
        on_check(checks[line.key])

    with ThreadPoolExecutor(MAX_REQUESTS, thread_name_prefix="verify") as pool:
        while waiting or running:
            for line in [x for x in waiting if checks.keys() >= set(x.needs)]:
                waiting.remove(line)
                if blocked := _blocked(line, checks):
                    report(line, blocked)
                else:
                    running[pool.submit(_outcome, line)] = line
            if running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    report(running.pop(future), future.result())
    return tuple(checks[line.key] for line in lines)


def _blocked(line: _Line, checks: Mapping[str, Check]) -> _Found | None:
    for key in line.needs:
        if checks[key].state in ("failed", "skipped"):
            cause = checks[checks[key].data.get("because", key)]
            return _Found(
                "skipped",
                f'Not checked, since "{cause.title}" is not well.',
                data={"because": cause.key},
            )
    return None


def _outcome(line: _Line) -> _Found:
    try:
        return line.run()
    except KubeError as exc:
        return _Found("failed", exc.message, exc.hint, {"reason": exc.reason})
    except ValueError as exc:  # of a certificate, as a sentence
        return _Found("failed", str(exc))


# === WHAT EACH LINE DOES === #


class _Verification:
    """One pass over one cluster; the methods named after a line are run for it."""

    def __init__(
        self,
        connection: Connection,
        *,
        cluster_id: str,
        profile: Profile,
        token_is_renewed: bool,
        now: Callable[[], datetime],
    ) -> None:
        self._connection = connection
        self._settings = connection.settings
        self._cluster_id = cluster_id
        self._profile = profile
        self._renewed = token_is_renewed or profile.self_renewal
        self._now = now
        self._presented: tuple[CertificateInfo, ...] = ()
        self._answer: Response | KubeError | None = None
        self._answered_at = now()
        self._lock = threading.Lock()
        self._everywhere: reviews.Rules | None = None

    def lines(self, namespaces: Iterable[str]) -> list[_Line]:
        lines = [
            _Line(key="reach", title="Name and address", run=self.reach),
            _Line(key="tls", title="Certificate", run=self.tls, needs=("reach",)),
            _Line(
                key="version", title="Server version", run=self.version, needs=("tls",)
            ),
            _Line(key="user", title="Who we are", run=self.user, needs=("version",)),
            _Line(
                key="definitions",
                title="Definitions of our objects",
                run=self.definitions,
                needs=("user",),
            ),
            _Line(
                key="cluster",
                title="Identity of the cluster",
                run=self.cluster,
                needs=("definitions",),
            ),
            _Line(
                key="rights",
                title="Rights in the whole cluster",
                run=self.rights,
                needs=("user",),
            ),
        ]
        for namespace in namespaces:
            lines += self._namespace_lines(namespace)
        lines.append(
            _Line(
                key="clock",
                title="Clock",
                run=self.clock,
                needs=("version",),
                required=False,
            )
        )
        lines.append(_Line(key="token", title="Token", run=self.token))
        if self._settings.client_cert_pem:
            lines.append(
                _Line(
                    key="client_certificate",
                    title="Client certificate",
                    run=self.client_certificate,
                )
            )
        if self._settings.ca_pem:
            lines.append(
                _Line(key="ca", title="CA certificate", run=self.ca, required=False)
            )
        return lines

    def _namespace_lines(self, namespace: str) -> list[_Line]:
        return [
            _Line(
                key=f"rights/{namespace}",
                title=f"Rights in {namespace}",
                run=lambda: self.rights_in(namespace),
                needs=("user",),
            ),
            _Line(
                key=f"gate/{namespace}",
                title=f"Admission in {namespace}",
                run=lambda: self.gate(namespace),
                needs=("definitions",),
            ),
        ]

    # === THE SERVER === #

    def reach(self) -> _Found:
        settings = self._settings
        if settings.proxy:
            return _Found("ok", "The connection goes through the proxy that is set.")
        host, port = host_and_port(settings.server)
        policy, timeout = settings.address_policy, settings.connect_timeout
        addresses = resolve(host, port, policy=policy, timeout=timeout)
        with suppress(TlsFailed):  # what is wrong with it, the next line says
            self._presented = fetch_certificates(
                settings.server,
                tls_server_name=settings.tls_server_name,
                policy=policy,
                timeout=timeout,
            )
        listed = ", ".join(addresses)
        seen = listed if addresses == (host,) else f"{host} is {listed}"
        return _Found(
            "ok", f"{seen}, and answers on port {port}.", data={"addresses": addresses}
        )

    def tls(self) -> _Found:
        facts = {"certificates": [_facts(found) for found in self._presented]}
        try:
            self._answer = self._connection.request("GET", "/version")
        except TlsFailed as exc:
            return _Found("failed", exc.message, exc.hint, facts)
        except KubeError as exc:
            self._answer = exc
        self._answered_at = self._now()
        if self._settings.insecure:
            return _Found(
                "warning",
                "The certificate is not verified: whoever is on the way can take the "
                "token.",
                "Enter the CA certificate, and stop accepting any certificate.",
                facts,
            )
        if not self._presented:
            return _Found("ok", "The certificate is accepted.")
        own = self._presented[0]
        found = _life(
            "The server's certificate",
            begins=own.not_before,
            ends=own.not_after,
            now=self._now(),
            todo="Ask the cluster's admin to renew it.",
        )
        seen = f"It is accepted: {own.subject}, issued by {own.issuer}. {found.seen}"
        return replace(found, seen=seen, data={**found.data, **facts})

    def version(self) -> _Found:
        answer = self._answer
        if isinstance(answer, Unauthorized | Forbidden):
            return _Found("warning", "The server does not tell us its version.")
        if isinstance(answer, KubeError):
            raise answer
        data = answer.data if answer else None
        version = bounded(data.get("gitVersion"), 64) if isinstance(data, dict) else ""
        if not version:
            return _Found(
                "failed",
                "What answers is not a Kubernetes API server.",
                "Check the address.",
            )
        return _Found("ok", f"Kubernetes {version}.", data={"version": version})

    def clock(self) -> _Found:
        headers = self._answer.headers if isinstance(self._answer, Response) else {}
        try:
            theirs = parsedate_to_datetime(headers.get("date", ""))
            difference = round((self._answered_at - theirs).total_seconds())
        except (TypeError, ValueError):
            return _Found("skipped", "The server does not tell its time.")
        facts = {"seconds": difference}
        if abs(difference) <= MAX_CLOCK_DIFFERENCE:
            return _Found("ok", "Both clocks agree.", data=facts)
        which = "ahead of" if difference > 0 else "behind"
        return _Found(
            "warning",
            f"This machine's clock is {abs(difference)} s {which} the cluster's.",
            "Let both machines take the time from a time server.",
            facts,
        )

    def user(self) -> _Found:
        user = server_user(self._connection)
        name, groups = user.name, list(user.groups)
        facts = {"username": name, "groups": groups}
        if name in ("", "system:anonymous"):
            return _Found(
                "failed",
                "The server does not know who we are.",
                "Enter the token of the service account.",
                facts,
            )
        profile = self._profile
        expected = (
            f"system:serviceaccount:{profile.service_account_namespace}:"
            f"{profile.service_account}"
        )
        if name != expected:
            return _Found(
                "warning",
                f"We are {name}, not {expected}.",
                "Use the service account that was made for this.",
                facts,
            )
        return _Found("ok", f"We are {name}.", data=facts)

    def definitions(self) -> _Found:
        kinds = served_kinds(self._connection)
        facts = {found.resource.kind: list(found.versions) for found in kinds}
        missing = [found.resource for found in kinds if not found.served]
        if missing:
            names = ", ".join(f"{kind.kind} ({kind.api_version})" for kind in missing)
            return _Found(
                "failed",
                f"The cluster does not serve {names}.",
                "Install the vWorkspace operator with its custom resource definitions.",
                facts,
            )
        served = ", ".join(
            f"{found.resource.kind} {', '.join(found.versions)}" for found in kinds
        )
        return _Found("ok", f"The cluster serves {served}.", data=facts)

    def cluster(self) -> _Found:
        answer = self._connection.request(
            "GET", CLUSTER.collection_path(None), query={"limit": str(MAX_CLUSTERS)}
        ).data
        items = answer.get("items") if isinstance(answer, dict) else None
        found = [
            (bounded(_inside(item, "spec", "clusterId"), 253), item)
            for item in (items if isinstance(items, list) else [])
        ]
        ours = [item for name, item in found if name == self._cluster_id]
        facts = {"cluster_ids": [name for name, _ in found]}
        if ours:
            listed = _inside(ours[0], "status", "managedNamespaces")
            proposed = _names(listed if isinstance(listed, list) else [])
            phase = bounded(_inside(ours[0], "status", "phase"), 64)
            return _Found(
                "ok",
                f"The cluster says that it is {self._cluster_id}.",
                data={**facts, "namespaces": proposed, "phase": phase},
            )
        if not found:
            return _Found(
                "warning",
                "There is no Cluster object that says which cluster this is.",
                "Ask the cluster's admin whether the operator is set up.",
                facts,
            )
        names = ", ".join(name or "(none)" for name, _ in found[:MAX_LISTED])
        return _Found(
            "failed",
            f"The cluster says that it is {names}, not {self._cluster_id}.",
            "Check that this is the right cluster, and its identity here.",
            facts,
        )

    # === RIGHTS === #

    def rights(self) -> _Found:
        """Check what holds in all namespaces, and in those that are no business of us.

        A namespace of a random name has no Roles, so that what may be done there may
        be done everywhere.
        """
        profile, connection = self._profile, self._connection
        home = profile.service_account_namespace
        answers = reviews.ask(connection, profile.cluster_wide)
        if profile.self_renewal:
            answers |= reviews.ask(connection, [profile.renewal], namespace=home)
        everywhere = self._rules_everywhere()
        missing, found = reviews.missing_and_excess(
            answers, everywhere, expected=profile.cluster_wide
        )
        complete = everywhere.complete
        for namespace in ("kube-system", home):
            rules = reviews.list_rules(connection, namespace)
            _, excess = reviews.missing_and_excess(
                {},
                rules.beyond(everywhere),
                expected=profile.in_namespace(namespace, gated=False),
            )
            found += [f"{right} in {namespace}" for right in excess]
            complete = complete and rules.complete
        flags = self._red_flags()
        if not complete:
            found += [flag for flag in flags if flag not in found]
        return _rights_found(
            missing, found, complete=complete, facts={"red_flags": flags}
        )

    def rights_in(self, namespace: str) -> _Found:
        expected = self._profile.in_namespace(namespace, gated=True)
        answers = reviews.ask(self._connection, expected, namespace=namespace)
        everywhere = self._rules_everywhere()
        rules = reviews.list_rules(self._connection, namespace)
        missing, excess = reviews.missing_and_excess(
            answers, rules.beyond(everywhere), expected=expected
        )
        if not rules.complete:
            flags = self._red_flags(namespace)
            excess += [flag for flag in flags if flag not in excess]
        found = _rights_found(
            missing, excess, complete=rules.complete, facts={"namespace": namespace}
        )
        if found.state == "ok" and self._excess_everywhere():
            return replace(found, seen="Those needed, and what holds everywhere.")
        return found

    def _rules_everywhere(self) -> reviews.Rules:
        with self._lock:
            if self._everywhere is None:
                self._everywhere = reviews.list_rules(
                    self._connection, f"vworkspace-probe-{secrets.token_hex(4)}"
                )
            return self._everywhere

    def _excess_everywhere(self) -> list[str]:
        _, excess = reviews.missing_and_excess(
            {}, self._rules_everywhere(), expected=self._profile.cluster_wide
        )
        return excess

    def _red_flags(self, namespace: str = "") -> list[str]:
        answers = reviews.ask(self._connection, reviews.RED_FLAGS, namespace=namespace)
        return [str(right) for right, allowed in answers.items() if allowed]

    # === ADMISSION === #

    def gate(self, namespace: str) -> _Found:
        """Have admission judge two instances that are never stored.

        One that it should let pass, and one whose release would be in another
        namespace, which it should refuse (contract §4).
        """
        facts = {"namespace": namespace}
        try:
            self._try_canary(namespace, release_namespace=namespace)
        except Forbidden:
            return _Found(
                "skipped", "Not checked: the right to create is missing.", data=facts
            )
        except NotFound as exc:
            return _Found("failed", exc.message, exc.hint, facts)
        except Denied as exc:
            label = "=".join(GATE_LABEL)
            return _Found(
                "failed",
                exc.message,
                "If it is not gated yet, the cluster's admin runs: kubectl label "
                f"namespace {namespace} {label}",
                facts,
            )
        try:
            self._try_canary(namespace, release_namespace=f"{namespace}-other")
        except Denied as exc:
            return _Found(
                "ok",
                "The cluster would admit an application here, and refuses a wrong one.",
                data={**facts, "refusal": exc.message},
            )
        return _Found(
            "warning",
            "The cluster would admit an application here, but also one that the "
            "operator should refuse.",
            "Check that the operator's admission webhook is installed, and that it "
            "covers this namespace.",
            facts,
        )

    def _try_canary(self, namespace: str, *, release_namespace: str) -> None:
        name = f"vworkspace-canary-{secrets.token_hex(4)}"
        manifest = application_instance(
            name=name,
            namespace=namespace,
            cluster_id=self._cluster_id,
            catalog_id="vworkspace-canary",
            chart={
                "source_type": "helm",
                "url": "https://charts.example.com",
                "name": "canary",
                "version": "1.0.0",
            },
            release_name=name,
            values={},
        )
        manifest["spec"]["release"]["namespace"] = release_namespace
        apply(self._connection, APPLICATION_INSTANCE, manifest, uid=None, dry_run=True)

    # === EXPIRY === #

    def token(self) -> _Found:
        token = self._connection.bearer_token()
        info = read_token(token)
        if not token:
            return _Found("ok", "There is no token; the client certificate tells us.")
        if info is None or info.expires_at is None:
            return _Found(
                "ok",
                "The token does not say that it expires.",
                data={"subject": info.subject if info else None, "expires": None},
            )
        found = _life(
            "The token",
            begins=info.issued_at,
            ends=info.expires_at,
            now=self._now(),
            todo="Enter a new one before it expires.",
            soon=timedelta() if self._renewed else EXPIRES_SOON,
        )
        return replace(found, data={**found.data, "subject": info.subject})

    def client_certificate(self) -> _Found:
        info = certificate_info(self._settings.client_cert_pem or "")
        found = _life(
            f"The client certificate of {info.subject}",
            begins=info.not_before,
            ends=info.not_after,
            now=self._now(),
            todo="Ask the cluster's admin for a new one.",
        )
        return replace(found, data={**found.data, **_facts(info)})

    def ca(self) -> _Found:
        """Look at the one that ends first: which of them is needed is not known."""
        info = min(
            bundle_info(self._settings.ca_pem or ""), key=lambda found: found.not_after
        )
        found = _life(
            f"The CA certificate {info.subject}",
            begins=info.not_before,
            ends=info.not_after,
            now=self._now(),
            todo="Ask the cluster's admin for the one that follows it.",
        )
        state: State = "warning" if found.state == "failed" else found.state
        return replace(found, state=state, data={**found.data, **_facts(info)})


# === WORDS === #


def _rights_found(
    missing: Sequence[str],
    excess: Sequence[str],
    *,
    complete: bool,
    facts: Mapping[str, Any],
) -> _Found:
    data = {**facts, "missing": missing, "excess": excess, "complete": complete}
    seen, todo = [], []
    if missing:
        seen.append(f"Missing: {_grouped(missing)}.")
        todo.append("Ask the cluster's admin to apply the rights as printed.")
    if excess:
        seen.append(f"More than needed: {_grouped(excess)}.")
        todo.append(
            "Ask the cluster's admin to remove what is too much, or accept it with a "
            "reason."
        )
    if not complete:
        seen.append(
            "The server cannot list all rights; the dangerous ones were asked for."
        )
    state: State = "ok"
    if excess or not complete:
        state = "warning"
    if missing:
        state = "failed"
    return _Found(
        state, " ".join(seen) or "Those needed, and no others.", " ".join(todo), data
    )


def _grouped(rights: Sequence[str]) -> str:
    """Join rights by what they are on: "get, list secrets; create pods"."""
    if "* *.*" in rights:
        return "everything"
    groups: dict[str, list[str]] = {}
    for right in rights:
        verb, _, what = right.partition(" ")
        groups.setdefault(what, []).append(verb)
    texts = [f"{', '.join(verbs)} {what}" for what, verbs in groups.items()]
    more = f"; and {len(texts) - MAX_LISTED} more" if len(texts) > MAX_LISTED else ""
    return "; ".join(texts[:MAX_LISTED]) + more


def _life(
    what: str,
    *,
    begins: datetime | None,
    ends: datetime,
    now: datetime,
    todo: str,
    soon: timedelta = EXPIRES_SOON,
) -> _Found:
    """Judge what is valid until `ends`."""
    left = ends - now
    facts = {"expires": ends.isoformat(), "days_left": round(left / timedelta(days=1))}
    if left <= timedelta():
        return _Found("failed", f"{what} expired on {_day(ends)}.", todo, facts)
    if begins is not None and now < begins - timedelta(minutes=5):
        return _Found(
            "failed",
            f"{what} is not valid before {_day(begins)}.",
            "Compare the clocks of this machine and the cluster.",
            facts,
        )
    seen = f"{what} expires on {_day(ends)}, in {_span(left)}."
    ageing = begins is not None and now - begins > (ends - begins) * MOST_OF_LIFE
    if ageing or left < soon:
        return _Found("warning", seen, todo, facts)
    return _Found("ok", seen, data=facts)


def _day(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _span(left: timedelta) -> str:
    hours = left // timedelta(hours=1)
    if hours < 1:
        return f"{left // timedelta(minutes=1)} minutes"
    return f"{hours} hours" if hours < 48 else f"{hours // 24} days"


def _facts(info: CertificateInfo) -> dict[str, Any]:
    return {
        "subject": info.subject,
        "issuer": info.issuer,
        "not_before": info.not_before.isoformat(),
        "not_after": info.not_after.isoformat(),
        "sha256": info.sha256,
        "names": list(info.dns_names),
    }


def _inside(data: Any, *names: str) -> Any:
    for name in names:
        data = data.get(name) if isinstance(data, dict) else None
    return data


def _names(entries: Sequence[Any]) -> list[str]:
    """Return namespaces as operators list them: as objects, or as bare names."""
    found = (_inside(x, "name") if isinstance(x, dict) else x for x in entries)
    return [name for entry in found if (name := bounded(entry, 63))]
