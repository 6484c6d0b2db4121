"""A kubeconfig as hostile input: what is taken, and what is refused by name."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kube.kubeconfig import Kubeconfig, KubeconfigError, parse_kubeconfig
from tests.unit.fakes import Certificate, make_certificate

SECRET = "s3cret-that-nobody-may-see"


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _config(**changes: Any) -> dict[str, Any]:
    """Return a good kubeconfig with entries of its cluster, user or top changed."""
    cluster = {"server": "https://c1.example:6443", **changes.pop("cluster", {})}
    user = {"token": SECRET, **changes.pop("user", {})}
    context = {"cluster": "one", "user": "ada", **changes.pop("context", {})}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "current-context": "work",
        "clusters": [{"name": "one", "cluster": cluster}],
        "users": [{"name": "ada", "user": user}],
        "contexts": [{"name": "work", "context": context}],
        **changes,
    }


def _parse(config: Any, **options: Any) -> Kubeconfig:
    return parse_kubeconfig(yaml.safe_dump(config), **options)


def _refusal(text: str | bytes, **options: Any) -> str:
    with pytest.raises(KubeconfigError) as caught:
        parse_kubeconfig(text, **options)
    sentence = str(caught.value)
    assert SECRET not in sentence
    assert sentence.endswith(".")
    assert len(sentence) < 600
    return sentence


# === TAKEN === #


def test_current_context_is_taken(certificate: Certificate) -> None:
    found = _parse(
        _config(
            cluster={
                "certificate-authority-data": _base64(certificate.pem),
                "tls-server-name": "api.example",
            },
            context={"namespace": "shop"},
        )
    )
    assert found == Kubeconfig(
        context="work",
        cluster="one",
        user="ada",
        server="https://c1.example:6443",
        ca_pem=certificate.pem,
        tls_server_name="api.example",
        namespace="shop",
        token=SECRET,
        client_cert_pem=None,
        client_key_pem=None,
        insecure=False,
        notes=(),
    )


def test_client_certificate_is_taken(certificate: Certificate) -> None:
    user = {
        "client-certificate-data": _base64(certificate.pem),
        "client-key-data": _base64(certificate.key_pem),
        "token": None,
    }
    found = _parse(_config(user=user))
    assert found.client_cert_pem == certificate.pem
    assert found.client_key_pem == certificate.key_pem
    assert found.token is None


def test_json_and_bytes_are_accepted() -> None:
    assert parse_kubeconfig(json.dumps(_config()).encode()).token == SECRET
    assert parse_kubeconfig(b"\xef\xbb\xbf" + json.dumps(_config()).encode())


def test_secrets_are_not_shown(certificate: Certificate) -> None:
    user = {
        "client-certificate-data": _base64(certificate.pem),
        "client-key-data": _base64(certificate.key_pem),
    }
    shown = repr(_parse(_config(user=user)))
    assert SECRET not in shown
    assert "BEGIN" not in shown


def test_other_contexts_are_named_and_not_read() -> None:
    config = _config()
    evil = {"name": "evil", "user": {"exec": {"command": "/bin/sh"}}}
    config["users"].append(evil)
    config["contexts"].append(
        {"name": "home", "context": {"cluster": "one", "user": "evil"}}
    )
    found = _parse(config)
    assert found.token == SECRET
    assert found.notes == (
        'The current context is "work"; the others (home) were not read.',
    )


def test_unknown_fields_are_named_and_not_used() -> None:
    found = _parse(_config(cluster={"disable-compression": True}, user={"x": 1}))
    assert found.notes == ("These fields were not used: disable-compression, x.",)


def test_empty_fields_of_kubectl_are_no_reason_to_refuse() -> None:
    user = {"username": "", "exec": None, "as-groups": []}
    assert _parse(_config(user=user)).token == SECRET


# === REFUSED BY NAME === #


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("exec", {"command": "/bin/sh", "args": [SECRET]}, "runs a program"),
        ("auth-provider", {"name": "gcp"}, "runs a program"),
        ("tokenFile", "/etc/passwd", "names a file"),
        ("client-certificate", "/etc/passwd", "names a file"),
        ("client-key", "/etc/passwd", "names a file"),
        ("username", "ada", "no passwords"),
        ("password", SECRET, "no passwords"),
        ("as", "root", "somebody else"),
        ("as-uid", "0", "somebody else"),
        ("as-groups", ["system:masters"], "somebody else"),
        ("as-user-extra", {"a": ["b"]}, "somebody else"),
    ],
)
def test_dangerous_field_of_a_user_is_refused(name: str, value: Any, why: str) -> None:
    sentence = _refusal(yaml.safe_dump(_config(user={name: value})))
    assert sentence.startswith(f'"{name}" in the user "ada" is not accepted')
    assert why in sentence


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("certificate-authority", "/etc/passwd", "names a file"),
        ("proxy-url", f"http://a:{SECRET}@p", "a proxy"),
        ("insecure-skip-tls-verify", True, "take the token"),
    ],
)
def test_dangerous_field_of_a_cluster_is_refused(
    name: str, value: Any, why: str
) -> None:
    sentence = _refusal(yaml.safe_dump(_config(cluster={name: value})))
    assert sentence.startswith(f'"{name}" in the cluster "one" is not accepted')
    assert why in sentence


def test_insecure_is_accepted_where_it_is_allowed() -> None:
    config = _config(cluster={"insecure-skip-tls-verify": True})
    assert _parse(config, allow_insecure=True).insecure
    assert not _parse(_config(), allow_insecure=True).insecure


# === MALFORMED === #


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"current-context": None}, "no current context"),
        ({"current-context": ""}, "no current context"),
        ({"current-context": 5}, "no current context"),
        ({"current-context": "gone"}, 'no context "gone"'),
        ({"current-context": "a\u0007b"}, "control characters"),
        ({"contexts": None}, 'no context "work"'),
        ({"contexts": {"work": {}}}, 'no context "work"'),
        ({"context": {"cluster": "gone"}}, 'no cluster "gone"'),
        ({"context": {"user": "gone"}}, 'no user "gone"'),
        ({"context": {"user": None}}, "names no user"),
        ({"context": {"namespace": "../x"}}, "name of a namespace"),
        ({"context": {"namespace": ["x"]}}, "must be text"),
        ({"users": [{"name": "ada", "user": None}]}, "is empty"),
        ({"users": [{"name": "ada", "user": {}}]}, "neither a token nor"),
        ({"users": [{"name": "ada"}] * 2}, "2 users named"),
        ({"clusters": [{"name": "one", "cluster": {}}] * 3}, "3 clusters named"),
        ({"kind": "Pod"}, "not a kubeconfig"),
        ({"apiVersion": "v2"}, "not a kubeconfig"),
        ({"user": {"token": f"{SECRET} x"}}, "blanks or line breaks"),
        ({"user": {"token": f"{SECRET}\nx"}}, "blanks or line breaks"),
        ({"user": {"token": 12345}}, "must be text"),
        ({"user": {"client-key-data": "!"}}, "not the base64"),
        ({"user": {"client-certificate-data": _base64("x")}}, "private key"),
        ({"cluster": {"server": ""}}, "Enter the address"),
        ({"cluster": {"server": 5}}, "must be text"),
        ({"cluster": {"server": "http://c1"}}, "https://"),
        ({"cluster": {"server": f"https://a:{SECRET}@c1"}}, "user name"),
        ({"cluster": {"server": "file:///etc/passwd"}}, "https://"),
        ({"cluster": {"tls-server-name": "a b"}}, "name of a server"),
        ({"cluster": {"certificate-authority-data": "!"}}, "not the base64"),
        ({"cluster": {"certificate-authority-data": _base64("x")}}, "not a cert"),
        ({"cluster": {"insecure-skip-tls-verify": "yes"}}, "true or false"),
    ],
)
def test_malformed_kubeconfig_is_refused_with_a_sentence(
    changes: dict[str, Any], words: str
) -> None:
    assert words in _refusal(json.dumps(_config(**changes)), allow_insecure=True)


def test_key_of_another_certificate_is_refused(
    certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = make_certificate(tmp_path_factory.mktemp("other"), name="other")
    user = {
        "client-certificate-data": _base64(certificate.pem),
        "client-key-data": _base64(other.key_pem),
    }
    assert "does not belong" in _refusal(yaml.safe_dump(_config(user=user)))


BOMB = "a: &a [x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)},*{chr(97 + i)}]\n"
    for i in range(20)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a kubeconfig"),
        ("- a\n- b\n", "not a kubeconfig"),
        ("hello", "not a kubeconfig"),
        (BOMB, "aliases"),
        ("!!python/object/apply:os.system ['id']", "tags"),
        ("kind: Config\nkind: Config\n", "twice"),
        ("kind: Config\n---\nkind: Config\n", "cannot be read"),
        ("a: [", "cannot be read"),
        ("[" * 5_000, "deeper"),
        ("a" * 1_000_000, "64 KiB"),
        (b"a" * 1_000_000, "64 KiB"),
        (b"\x7fELF\x02\x01\x01\x00\xff\xfe", "not a text file"),
        (b"k\x00i\x00n\x00d\x00", "not a text file"),
        ("kind: Config\x07", "cannot be read"),
    ],
)
def test_text_that_is_no_kubeconfig_is_refused(text: str | bytes, words: str) -> None:
    assert words in _refusal(text)


_SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=20)
_ANYTHING = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=6,
)
_FIELDS = st.sampled_from(
    [
        *("server", "certificate-authority-data", "tls-server-name", "proxy-url"),
        *("token", "exec", "client-key-data", "client-certificate-data", "as"),
        *("namespace", "insecure-skip-tls-verify", "cluster", "user"),
    ]
)


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.sampled_from(["cluster", "user", "context"]),
        st.dictionaries(_FIELDS, _ANYTHING, max_size=3),
    ),
    st.dictionaries(
        st.sampled_from(["clusters", "users", "contexts", "kind", "current-context"]),
        _ANYTHING,
        max_size=2,
    ),
)
def test_whatever_it_holds_is_taken_or_refused(
    entries: dict[str, Any], top: dict[str, Any]
) -> None:
    try:
        found = parse_kubeconfig(json.dumps(_config(**entries) | top))
    except KubeconfigError:
        return
    assert found.server.startswith("https://")


@given(st.text() | st.binary())
def test_any_text_is_refused(text: str | bytes) -> None:
    with pytest.raises(KubeconfigError):
        parse_kubeconfig(text)
