"""A real Kubernetes control plane without nodes: etcd and kube-apiserver.

All of its state is in one folder, so that a stopped one can be started again: keys,
certificates, tokens, etcd's data and the port. Setting things up goes through the API
itself, as the admin of it; kubectl is for those who ask for it. With the controller
manager, namespaces get deleted, owners' dependents collected and legacy
service-account tokens filled in.
"""

import base64
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import requests
import yaml
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from .certificates import make_certificates, make_service_account_key
from .control_plane_build import program
from .paths import ADDON, CHECKOUT
from .processes import Process, free_port, remembered_port, wait_until
from .progress import Failure

DEFINITIONS = CHECKOUT / "environment" / "crds"
SYSTEM_NAMESPACE = "vworkspace-system"
SERVICE_ACCOUNT = "vworkspace-control-plane"
GATE = {"managed-by": "vworkspace"}
FIELD_MANAGER = "environment"
CONTROLLERS = (
    "namespace-controller",
    "garbage-collector-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
)

START_TIMEOUT = 60.0  # s
STOP_TIMEOUT = 2.0  # s; an API server with open watches would take a minute
REQUEST_TIMEOUT = (5.0, 30.0)  # s: to connect, between bytes
KUBECTL_TIMEOUT = 120.0  # s
# Nothing was done when a server says 429; any other answer is the caller's to judge.
_WHEN_THROTTLED = Retry(
    total=10,
    connect=0,
    read=0,
    other=0,
    redirect=0,
    status_forcelist=[429],
    allowed_methods=None,
    backoff_factor=0.2,
    raise_on_status=False,
)
START_ATTEMPTS = 3  # a port that was free may be taken before it is used


class ControlPlane:
    """One etcd, one kube-apiserver and, if asked for, one controller manager."""

    def __init__(
        self, directory: Path, *, controller_manager: bool = False, port: int = 0
    ) -> None:
        """
        :param directory: holds all state; made when it is not there
        :param port: of the API server; 0 = the last one used here, if it is free
        """
        self.directory = Path(directory).absolute()
        self.with_controller_manager = controller_manager
        self._port = port
        self._etcd: Process | None = None
        self._api_server: Process | None = None
        self._controller_manager: Process | None = None
        self._etcd_url = ""
        self._session: requests.Session | None = None
        self._resources: dict[str, list[dict[str, Any]]] = {}

    # === LIFE === #

    def start(self) -> None:
        """Start what is not running; return when the API server is ready."""
        self._make_files()
        self._start_etcd()
        self._start_api_server()
        if self.with_controller_manager:
            self._start_controller_manager()

    def stop(self) -> None:
        """Stop all of it; the state stays."""
        for process in reversed(self.processes):
            process.stop(STOP_TIMEOUT)
        if self._session is not None:
            self._session.close()
            self._session = None

    def kill(self) -> None:
        """End the API server with SIGKILL, as a crash would; `start` brings it back."""
        self._api_server_process.kill()

    def restart(self) -> None:
        """Stop the API server and start it again on the same address."""
        self._api_server_process.stop(STOP_TIMEOUT)
        self._start_api_server()

    def freeze(self) -> None:
        """Let the API server hang (SIGSTOP): connections stay, nothing answers."""
        self._api_server_process.freeze()

    def thaw(self) -> None:
        """Let a frozen API server run on."""
        self._api_server_process.thaw()

    def back_up(self) -> Path:
        """Copy what etcd holds now, as a crash would leave it; return the folder."""
        if self._etcd is None:
            raise Failure("etcd has not been started.")
        backup = self.directory / "etcd.backup"
        shutil.rmtree(backup, ignore_errors=True)
        self._etcd.freeze()
        try:
            shutil.copytree(self._etcd_data, backup)
        finally:
            self._etcd.thaw()
        return backup

    def restore(self, backup: Path) -> None:
        """Start again with what etcd held in `backup`: versions move backwards."""
        self.stop()
        shutil.rmtree(self._etcd_data)
        shutil.copytree(backup, self._etcd_data)
        self.start()

    @property
    def processes(self) -> list[Process]:
        """What this runs, for whoever watches over it."""
        found = (self._etcd, self._api_server, self._controller_manager)
        return [process for process in found if process is not None]

    @property
    def _etcd_data(self) -> Path:
        return self.directory / "etcd"

    @property
    def _api_server_process(self) -> Process:
        if self._api_server is None:
            raise Failure("The API server has not been started.")
        return self._api_server

    # === WHERE AND AS WHOM === #

    @property
    def server(self) -> str:
        """The API server's address."""
        return f"https://127.0.0.1:{self._port}"

    @property
    def ca_file(self) -> Path:
        return self.directory / "certificates" / "ca.crt"

    @property
    def ca_pem(self) -> str:
        """The certificate of the authority that signed the API server's."""
        return self.ca_file.read_text()

    @property
    def admin_token(self) -> str:
        return (self.directory / "admin.token").read_text().strip()

    @property
    def admin_kubeconfig(self) -> Path:
        """A kubeconfig of a cluster admin."""
        return self.directory / "admin.kubeconfig"

    def kubeconfig(self, path: Path, *, token: str, user: str) -> Path:
        """Write a kubeconfig that holds `token`, readable by us alone."""
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "vworkspace",
            "clusters": [
                {
                    "name": "vworkspace",
                    "cluster": {
                        "server": self.server,
                        "certificate-authority-data": _base64(self.ca_pem),
                    },
                }
            ],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [
                {
                    "name": "vworkspace",
                    "context": {"cluster": "vworkspace", "user": user},
                }
            ],
        }
        _write_private(path, json.dumps(content, indent=2))
        return path

    # === SETTING UP === #

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Any:
        """Send one request as admin and return the JSON answer.

        A 429, as while the storage of a kind starts anew, is waited out.

        :raise Failure: with the server's own words
        """
        if self._session is None:
            self._session = requests.Session()
            self._session.trust_env = False  # no proxy in front of 127.0.0.1
            self._session.verify = str(self.ca_file)
            self._session.mount("https://", HTTPAdapter(max_retries=_WHEN_THROTTLED))
        response = self._session.request(
            method,
            f"{self.server}{path}",
            params=query,
            data=None if body is None else json.dumps(body),
            headers={
                "Authorization": f"Bearer {self.admin_token}",
                "Content-Type": content_type,
            },
            timeout=REQUEST_TIMEOUT,
        )
        if not response.ok:
            raise Failure(
                f"{method} {path} was answered {response.status_code}:"
                f" {_message(response)}"
            )
        if response.headers.get("Content-Type", "").startswith("application/json"):
            return response.json()
        return response.text

    def apply(self, manifests: Iterable[dict[str, Any]] | str) -> None:
        """Apply manifests as admin, by server-side apply and taking fields over.

        :param manifests: objects, or YAML text of one or more documents
        """
        if isinstance(manifests, str):
            manifests = [found for found in yaml.safe_load_all(manifests) if found]
        for manifest in manifests:
            self.request(
                "PATCH",
                self._path_of(manifest),
                body=manifest,
                query={"fieldManager": FIELD_MANAGER, "force": "true"},
                content_type="application/apply-patch+yaml",
            )

    def install_definitions(self) -> None:
        """Install environment/crds/*.yaml and wait until they are served."""
        files = sorted(DEFINITIONS.glob("*.yaml"))
        if not files:
            raise Failure(f"There are no definitions in {DEFINITIONS}.")
        definitions = [yaml.safe_load(file.read_text()) for file in files]
        self.apply(definitions)
        for definition in definitions:
            path = _collection_of(definition["spec"])
            # 404 until the route exists, 429 while its storage initialises.
            wait_until(
                lambda path=path: self.request("GET", path) is not None,
                what=f"{definition['metadata']['name']} to be served",
                timeout=START_TIMEOUT,
            )

    def create_namespace(self, name: str, *, gated: bool = True) -> None:
        """Create a namespace, with the label that lets the connector write to it."""
        labels = GATE if gated else {}
        metadata = {"name": name, "labels": labels}
        self.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}])

    def grant(self, namespaces: Sequence[str]) -> None:
        """Give the connector's service account its rights in `namespaces`.

        The manifests are those that the addon prints for an admin: they are what the
        tests prove to be enough.
        """
        if str(ADDON) not in sys.path:
            sys.path.append(str(ADDON))
        from kube.access import rbac_manifests

        self.create_namespace(SYSTEM_NAMESPACE, gated=False)
        self.apply(rbac_manifests(namespaces=namespaces))
        for namespace in namespaces:
            # The API server learns of a binding a moment after it was stored.
            wait_until(
                partial(self._may_deploy, namespace),
                what=f"the rights in {namespace} to be in effect",
                timeout=START_TIMEOUT,
            )

    def _may_deploy(self, namespace: str) -> bool:
        asked = {
            "user": f"system:serviceaccount:{SYSTEM_NAMESPACE}:{SERVICE_ACCOUNT}",
            "resourceAttributes": {
                "group": "apps.vworkspace.io",
                "resource": "applicationinstances",
                "verb": "patch",
                "namespace": namespace,
            },
        }
        answer = self.request(
            "POST",
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            body={"spec": asked},
        )
        return bool(answer["status"]["allowed"])

    def service_account_token(
        self,
        *,
        name: str = SERVICE_ACCOUNT,
        namespace: str = SYSTEM_NAMESPACE,
        seconds: int = 86400,
    ) -> str:
        """Return a bound token of a service account (TokenRequest).

        :param seconds: its lifetime, at least 600
        """
        answer = self.request(
            "POST",
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token",
            body={"spec": {"expirationSeconds": seconds}},
        )
        return str(answer["status"]["token"])

    def service_account_kubeconfig(
        self,
        path: Path,
        *,
        name: str = SERVICE_ACCOUNT,
        namespace: str = SYSTEM_NAMESPACE,
        seconds: int = 86400,
    ) -> Path:
        """Write a kubeconfig with a token of a service account."""
        token = self.service_account_token(
            name=name, namespace=namespace, seconds=seconds
        )
        return self.kubeconfig(path, token=token, user=name)

    def kubectl(
        self, *arguments: str, input: str | None = None, check: bool = True
    ) -> str:
        """Run kubectl as admin and return what it prints.

        :param input: text for its standard input
        :param check: raise when it fails; else return its errors too
        """
        done = subprocess.run(
            [str(program("kubectl")), *arguments],
            input=input,
            capture_output=True,
            text=True,
            timeout=KUBECTL_TIMEOUT,
            env=self.kubectl_environment(),
            check=False,
        )
        if not check:
            return done.stdout + done.stderr
        if done.returncode:
            raise Failure(
                f"kubectl {' '.join(arguments)} failed (exit code {done.returncode}):"
                f" {done.stderr.strip()[:2000]}"
            )
        return done.stdout

    def kubectl_environment(self) -> dict[str, str]:
        """Return the environment in which kubectl means this cluster, as admin."""
        # Its discovery cache is keyed by address, and addresses get reused.
        cache = str(self.directory / "kubectl-cache")
        return {
            **os.environ,
            "KUBECONFIG": str(self.admin_kubeconfig),
            "KUBECACHEDIR": cache,
            "NO_PROXY": "127.0.0.1",
        }

    def compact(self) -> None:
        """Let etcd forget every version up to now.

        The API server still answers from its watch cache; restart it as well to have
        it answer 410 to what asks for an older version.
        """
        key = _base64("\0")
        answer = self._etcd_request("kv/range", {"key": key, "limit": 1})
        revision = answer["header"]["revision"]
        self._etcd_request("kv/compaction", {"revision": revision, "physical": True})

    def _etcd_request(self, path: str, body: dict[str, Any]) -> Any:
        with requests.Session() as session:
            session.trust_env = False
            response = session.post(
                f"{self._etcd_url}/v3/{path}", json=body, timeout=REQUEST_TIMEOUT
            )
        if not response.ok:
            raise Failure(f"etcd answered {response.status_code}: {_message(response)}")
        return response.json()

    def _path_of(self, manifest: dict[str, Any]) -> str:
        api_version, kind = manifest["apiVersion"], manifest["kind"]
        resource = self._resource(api_version, kind)
        path = _group_path(api_version)
        if resource["namespaced"]:
            path += f"/namespaces/{manifest['metadata'].get('namespace', 'default')}"
        return f"{path}/{resource['name']}/{manifest['metadata']['name']}"

    def _resource(self, api_version: str, kind: str) -> dict[str, Any]:
        for fresh in (False, True):
            if fresh or api_version not in self._resources:
                listed = self.request("GET", _group_path(api_version))
                self._resources[api_version] = listed["resources"]
            for resource in self._resources[api_version]:
                if resource["kind"] == kind and "/" not in resource["name"]:
                    return resource
        raise Failure(f"The API server does not serve {kind} of {api_version}.")

    # === PROCESSES === #

    def _make_files(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        make_certificates(self.directory / "certificates")
        make_service_account_key(self.directory / "service-accounts.key")
        token = self.directory / "admin.token"
        if not token.exists():
            _write_private(token, secrets.token_hex(24))
        _write_private(
            self.directory / "tokens.csv",
            f'{self.admin_token},admin,admin,"system:masters"\n',
        )

    def _start_etcd(self) -> None:
        if self._etcd is not None and self._etcd.running:
            return
        for attempt in range(1, START_ATTEMPTS + 1):
            client, peer = free_port(), free_port()
            self._etcd_url = f"http://127.0.0.1:{client}"
            self._etcd = self._etcd_process(f"http://127.0.0.1:{peer}")
            try:
                self._run(self._etcd, f"{self._etcd_url}/health")
                return
            except Failure:
                self._etcd.kill()
                if attempt == START_ATTEMPTS:
                    raise

    def _etcd_process(self, peer_url: str) -> Process:
        return Process(
            "etcd",
            [
                program("etcd"),
                f"--data-dir={self._etcd_data}",
                f"--listen-client-urls={self._etcd_url}",
                f"--advertise-client-urls={self._etcd_url}",
                f"--listen-peer-urls={peer_url}",
                "--log-level=warn",
                # As kubeadm sets it: without it, quiet watches get no bookmarks.
                "--watch-progress-notify-interval=5s",
                # Nothing here must survive a power failure.
                "--unsafe-no-fsync",
            ],
            log=self.directory / "etcd.log",
        )

    def _start_api_server(self) -> None:
        if self._api_server is not None and self._api_server.running:
            return
        for attempt in range(1, START_ATTEMPTS + 1):
            self._port = remembered_port(self.directory / "port", self._port)
            self.kubeconfig(self.admin_kubeconfig, token=self.admin_token, user="admin")
            self._api_server = self._api_server_command()
            try:
                self._run(self._api_server, f"{self.server}/readyz")
                return
            except Failure:
                self._api_server.kill()
                if attempt == START_ATTEMPTS:
                    raise

    def _api_server_command(self) -> Process:
        certificates = self.directory / "certificates"
        key = self.directory / "service-accounts.key"
        return Process(
            "kube-apiserver",
            [
                program("kube-apiserver"),
                f"--etcd-servers={self._etcd_url}",
                "--bind-address=127.0.0.1",
                f"--secure-port={self._port}",
                f"--tls-cert-file={certificates / 'server.crt'}",
                f"--tls-private-key-file={certificates / 'server.key'}",
                f"--client-ca-file={self.ca_file}",
                f"--token-auth-file={self.directory / 'tokens.csv'}",
                "--authorization-mode=RBAC",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={key}",
                f"--service-account-signing-key-file={key}",
                "--service-cluster-ip-range=10.0.0.0/24",
            ],
            log=self.directory / "kube-apiserver.log",
        )

    def restart_controllers(self) -> None:
        """Have the controllers look at everything afresh.

        After failures, the namespace controller waits up to a minute between its
        attempts, and its streams find out late that a server was restarted.
        """
        if self._controller_manager is None:
            raise Failure("There are no controllers here.")
        self._controller_manager.kill()
        self._start_controller_manager()

    def _start_controller_manager(self) -> None:
        if self._controller_manager is not None and self._controller_manager.running:
            return
        port = free_port()
        key = self.directory / "service-accounts.key"
        self._controller_manager = Process(
            "kube-controller-manager",
            [
                program("kube-controller-manager"),
                f"--kubeconfig={self.admin_kubeconfig}",
                f"--controllers={','.join(CONTROLLERS)}",
                f"--service-account-private-key-file={key}",
                f"--root-ca-file={self.ca_file}",
                "--bind-address=127.0.0.1",
                f"--secure-port={port}",
                f"--cert-dir={self.directory / 'controller-manager'}",
                "--use-service-account-credentials=false",
                "--leader-elect=false",
                *("--kube-api-qps=200", "--kube-api-burst=400"),  # few, but busy
            ],
            log=self.directory / "kube-controller-manager.log",
        )
        self._controller_manager.start()

    def _run(self, process: Process, health_url: str) -> None:
        process.start()
        with requests.Session() as session:
            session.trust_env = False
            session.verify = str(self.ca_file)
            wait_until(
                lambda: session.get(health_url, timeout=REQUEST_TIMEOUT).ok,
                what=f"{process.name} to be ready",
                timeout=START_TIMEOUT,
                process=process,
            )


def _collection_of(spec: dict[str, Any]) -> str:
    version, plural = spec["versions"][0]["name"], spec["names"]["plural"]
    return f"/apis/{spec['group']}/{version}/{plural}"


def _group_path(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def _message(response: requests.Response) -> str:
    try:
        return str(response.json()["message"])[:2000]
    except (ValueError, KeyError, TypeError):
        return response.text[:500]


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)
