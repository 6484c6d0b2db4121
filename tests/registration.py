"""What tests of registration and credentials need beside Odoo: a Cluster object, an
admission as the operator's, client certificates, tokens that can be revoked, a look at
what is sent.
"""

import base64
import json
import secrets
from contextlib import contextmanager

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from environment.certificates import LIFETIME
from environment.control_plane import SERVICE_ACCOUNT, SYSTEM_NAMESPACE
from tests.deliveries import place_in
from tests.waiting import eventually

SUBJECT = f"system:serviceaccount:{SYSTEM_NAMESPACE}:{SERVICE_ACCOUNT}"
CLUSTER = "vworkspace.cluster"
IDENTITY = "registration"  # of the clusters that `register` enters
GUARD = "test-guard"
APPLICATION = {
    "catalog_id": "wiki",
    "chart_url": "oci://registry.example.com/charts",
    "chart_name": "wiki",
    "chart_version": "1.4.2",
    "values_yaml": "replicas: 1\n",
}


# === IN THE CLUSTER === #


def install_guard(control_plane):
    """Have the API server refuse what the operator's admission would (contract §4).

    Only in namespaces with the label `test-guard`, so that no other test sees it.
    """
    admission = "admissionregistration.k8s.io/v1"
    rule = {
        "apiGroups": ["apps.vworkspace.io"],
        "apiVersions": ["*"],
        "operations": ["CREATE", "UPDATE"],
        "resources": ["applicationinstances"],
    }
    control_plane.apply(
        [
            {
                "apiVersion": admission,
                "kind": "ValidatingAdmissionPolicy",
                "metadata": {"name": GUARD},
                "spec": {
                    "failurePolicy": "Fail",
                    "matchConstraints": {"resourceRules": [rule]},
                    "validations": [
                        {
                            "expression": "object.spec.release.namespace == "
                            "object.metadata.namespace",
                            "message": "the release is in another namespace",
                        },
                        {
                            "expression": "has(namespaceObject.metadata.labels) && "
                            "'managed-by' in namespaceObject.metadata.labels",
                            "message": "the namespace is not gated",
                        },
                    ],
                },
            },
            {
                "apiVersion": admission,
                "kind": "ValidatingAdmissionPolicyBinding",
                "metadata": {"name": GUARD},
                "spec": {
                    "policyName": GUARD,
                    "validationActions": ["Deny"],
                    "matchResources": {
                        "namespaceSelector": {"matchLabels": {GUARD: "yes"}}
                    },
                },
            },
        ]
    )
    # It takes effect a moment after it was stored: wait until it refuses.
    make_namespace(control_plane, f"{GUARD}-probe", gated=False)
    eventually(
        lambda: "not gated" in _try_an_application(control_plane, f"{GUARD}-probe"),
        what="the guard to be in effect",
        equals=True,
    )


def _try_an_application(control_plane, namespace):
    """Return what the server says to a dry run of an application there."""
    manifest = {
        "apiVersion": "apps.vworkspace.io/v1alpha1",
        "kind": "ApplicationInstance",
        "metadata": {"name": "probe", "namespace": namespace},
        "spec": {
            "appRef": {"catalogId": "probe"},
            "release": {"name": "probe", "namespace": namespace},
        },
    }
    return control_plane.kubectl(
        *("create", "--dry-run=server", "-f", "-"),
        input=json.dumps(manifest),
        check=False,
    )


def remove_guard(control_plane):
    group = "/apis/admissionregistration.k8s.io/v1"
    for kind in (
        "validatingadmissionpolicybindings",
        "validatingadmissionpolicies",
    ):
        control_plane.request("DELETE", f"{group}/{kind}/{GUARD}")


def make_namespace(control_plane, name, *, gated):
    """Make a namespace that the guard watches over."""
    labels = {GUARD: "yes"} | ({"managed-by": "vworkspace"} if gated else {})
    metadata = {"name": name, "labels": labels}
    control_plane.apply(
        [{"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}]
    )


@contextmanager
def cluster_object(control_plane, cluster_id):
    """Have the cluster say who it is, as its operator would."""
    manifest = {
        "apiVersion": "ops.vworkspace.io/v1alpha1",
        "kind": "Cluster",
        "metadata": {"name": cluster_id},
        "spec": {"clusterId": cluster_id},
    }
    control_plane.apply([manifest])
    yield
    path = f"/apis/ops.vworkspace.io/v1alpha1/clusters/{cluster_id}"
    control_plane.request("DELETE", path)


def set_role(control_plane, namespace, rules):
    """Give the service account exactly these rules in a namespace."""
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles"
    control_plane.request(
        "PATCH",
        f"{path}/{SERVICE_ACCOUNT}",
        body={"rules": rules},
        content_type="application/merge-patch+json",
    )


def get_rules(control_plane, namespace):
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles"
    return control_plane.request("GET", f"{path}/{SERVICE_ACCOUNT}")["rules"]


class RevocableToken:
    """A token of the service account that is bound to a Secret, so that it can end."""

    def __init__(self, control_plane):
        self._control_plane = control_plane
        name = f"binding-{secrets.token_hex(4)}"
        self._secret = f"/api/v1/namespaces/{SYSTEM_NAMESPACE}/secrets/{name}"
        made = control_plane.request(
            "POST",
            f"/api/v1/namespaces/{SYSTEM_NAMESPACE}/secrets",
            body={"metadata": {"name": name}},
        )
        bound = {
            "apiVersion": "v1",
            "kind": "Secret",
            "name": name,
            "uid": made["metadata"]["uid"],
        }
        answer = control_plane.request(
            "POST",
            f"/api/v1/namespaces/{SYSTEM_NAMESPACE}/serviceaccounts/"
            f"{SERVICE_ACCOUNT}/token",
            body={"spec": {"expirationSeconds": 86400, "boundObjectRef": bound}},
        )
        self.text = answer["status"]["token"]

    def revoke(self):
        """End it. The API server may go on accepting it for ten seconds."""
        self._control_plane.request("DELETE", self._secret)

    def is_accepted(self):
        """Ask the API server with the token itself, as its bearer would."""
        with requests.Session() as session:
            session.trust_env = False
            answer = session.get(
                f"{self._control_plane.server}/apis",
                headers={"Authorization": f"Bearer {self.text}"},
                verify=str(self._control_plane.ca_file),
                timeout=30,
            )
        return answer.status_code != 401


# === CERTIFICATES AND KUBECONFIGS === #


def client_certificate(control_plane, *, subject=SUBJECT, password=None):
    """Return a client certificate that the cluster accepts, and its key, in PEM.

    :param subject: its common name, which is the user's name to Kubernetes
    :param password: to encrypt the key with
    """
    folder = control_plane.directory / "certificates"
    ca = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    ca_key = serialization.load_pem_private_key(
        (folder / "ca.key").read_bytes(), password=None
    )
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ca.not_valid_before_utc)
        .not_valid_after(ca.not_valid_before_utc + LIFETIME / 2)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    encryption = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    key_pem = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, encryption)
    return certificate.public_bytes(pem).decode(), key_pem.decode()


def kubeconfig(control_plane, *, user, cluster=None):
    """Return a kubeconfig as text.

    :param dict user: the entry's fields
    :param dict cluster: fields beyond or instead of the usual ones
    """
    ca = base64.b64encode(control_plane.ca_pem.encode()).decode()
    place = {"server": control_plane.server, "certificate-authority-data": ca}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "prod",
        "clusters": [{"name": "prod", "cluster": {**place, **(cluster or {})}}],
        "users": [{"name": "connector", "user": user}],
        "contexts": [
            {"name": "prod", "context": {"cluster": "prod", "user": "connector"}},
            {"name": "other", "context": {"cluster": "prod", "user": "connector"}},
        ],
    }
    return json.dumps(content, indent=2)


# === WHAT IS SENT === #


class Spy:
    """Sees each request of this process: method, path, query, body, and whose token."""

    def __init__(self, monkeypatch):
        from odoo.addons.vworkspace_push.kube.connection import Connection

        self.sent = []
        self.tokens = []
        real = Connection.request
        spy = self

        def request(connection, method, path, *, query=None, body=None, **options):
            spy.sent.append((method, path, dict(query or {}), body))
            spy.tokens.append(connection.bearer_token())
            return real(connection, method, path, query=query, body=body, **options)

        monkeypatch.setattr(Connection, "request", request)

    def clear(self):
        self.sent.clear()
        self.tokens.clear()


# === IN ODOO === #


def register(database, control_plane, **values):
    """Enter a cluster as the form's first step does; return the record."""
    values = {
        "name": "Registered",
        "cluster_id": IDENTITY,
        "server_url": control_plane.server,
        "ca_certificate": control_plane.ca_pem,
        **values,
    }
    (answer,) = database.call("admin", CLUSTER, "web_save", [], values, {})
    with database.transaction() as env:
        return env[CLUSTER].browse(answer["id"])


def write(database, record, **values):
    database.call("admin", record._name, "web_save", record.ids, values, {})


def call(database, record, method):
    return database.call("admin", record._name, method, record.ids)


def refused(database, record, method, sentence):
    from odoo.exceptions import UserError

    with pytest.raises(UserError, match=sentence):
        call(database, record, method)


def list_namespace(database, cluster, name):
    write(database, cluster, namespace_ids=[(0, 0, {"name": name})])


def verify(database, cluster):
    call(database, cluster, "action_verify")
    database.run_cron("ir_cron_verify")


def credentials(database, cluster, state):
    with database.transaction() as env:
        found = env["vworkspace.cluster.credential"].search(
            [("cluster_id", "=", cluster.id), ("state", "=", state)]
        )
        return found.read(["kind", "summary", "subject"])


def candidate(database, cluster):
    (found,) = credentials(database, cluster, "candidate")
    return found


def active_credential(database, cluster):
    (found,) = credentials(database, cluster, "active")
    return found


def activities(database, cluster):
    domain = [("res_model", "=", cluster._name), ("res_id", "=", cluster.id)]
    with database.transaction() as env:
        return env["mail.activity"].search_read(domain, ["summary", "note", "user_id"])


def make_application(database, cluster, name="wiki"):
    place = place_in(database, cluster)
    with database.transaction() as env:
        return env["vworkspace.application.instance"].create(
            {"name": name, **place, **APPLICATION}
        )
