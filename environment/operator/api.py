"""A small client of one API server: get, list, watch, apply, delete over HTTPS.

Made for the simulated operator alone, from `requests`, and independent of the addon's
client. Every call has a timeout and a size limit; every failure is an ApiError.
"""

import base64
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
import yaml
from requests.adapters import HTTPAdapter

from .resources import FIELD_MANAGER

CONNECT_TIMEOUT = 5.0  # s
READ_TIMEOUT = 15.0  # s
# Bookmarks come about every 60 s, so a stream that is silent for longer is dead.
WATCH_INACTIVITY = 90.0  # s
MAX_RESPONSE = 128 * 1024 * 1024  # bytes
_CHUNK = 256 * 1024  # bytes


class ApiError(Exception):
    """A request that failed; `status` is 0 when there was no answer."""

    def __init__(self, message: str, *, status: int = 0):
        super().__init__(message)
        self.status = status

    @classmethod
    def from_status(cls, data: Any, *, status: int = 0) -> "ApiError":
        """Make one from a Kubernetes Status object, or from whatever came instead."""
        if not isinstance(data, dict):
            return cls(f"HTTP {status}", status=status)
        message = str(data.get("message") or f"HTTP {status}")[:2000]
        return cls(message, status=data.get("code") or status)


class ApiServer:
    """One API server as one kubeconfig reaches it; safe to share between threads."""

    def __init__(self, kubeconfig: Path):
        server, token, ca_pem = _read_kubeconfig(kubeconfig)
        self.server = server
        self._token = token
        # `requests` takes a CA bundle as a file only.
        self._folder = tempfile.TemporaryDirectory(prefix="vworkspace-operator-")
        self._ca_file = Path(self._folder.name) / "ca.crt"
        self._ca_file.write_bytes(ca_pem)
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.mount("https://", HTTPAdapter(pool_maxsize=16))

    def __repr__(self) -> str:
        return f"ApiServer({self.server!r})"

    def get(self, path: str, *, timeout: float = READ_TIMEOUT) -> dict[str, Any]:
        """Return an object or a list."""
        return self._request("GET", path, timeout=timeout)

    def apply(
        self, path: str, body: dict[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        """Apply on the server as the operator, overruling other managers."""
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return self._request(
            "PATCH",
            path,
            query=query | _dry_run(dry_run),
            body=body,
            content_type="application/apply-patch+yaml",
        )

    def create(
        self, path: str, body: dict[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        """Create an object in the collection at `path`."""
        query = {"fieldManager": FIELD_MANAGER}
        return self._request("POST", path, query=query | _dry_run(dry_run), body=body)

    def delete(self, path: str, *, timeout: float = READ_TIMEOUT) -> None:
        """Delete an object; one that is gone already is fine."""
        try:
            self._request("DELETE", path, timeout=timeout)
        except ApiError as error:
            if error.status != 404:
                raise

    def watch(self, path: str, *, resource_version: str) -> Iterator[dict[str, Any]]:
        """Yield watch events until the server ends the stream.

        Raises ApiError when the stream breaks, goes silent or reports an error.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(random.randint(300, 600)),  # noqa: S311
        }
        try:
            with self._send("GET", path, query=query, timeout=WATCH_INACTIVITY) as got:
                if got.status_code != 200:
                    raise ApiError.from_status(_read(got), status=got.status_code)
                for line in got.iter_lines(chunk_size=_CHUNK):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise ApiError.from_status(event["object"])
                    yield event
        except (requests.RequestException, ValueError) as error:
            raise ApiError(f"watch of {path} broke: {type(error).__name__}") from error

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
        content_type: str = "application/json",
        timeout: float = READ_TIMEOUT,
    ) -> dict[str, Any]:
        try:
            with self._send(
                method,
                path,
                query=query,
                body=body,
                content_type=content_type,
                timeout=timeout,
            ) as got:
                data = _read(got)
        except (requests.RequestException, ValueError) as error:
            raise ApiError(f"{method} {path} failed: {type(error).__name__}") from error
        if got.status_code >= 300 or not isinstance(data, dict):
            raise ApiError.from_status(data, status=got.status_code)
        return data

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
        content_type: str = "application/json",
        timeout: float,
    ) -> requests.Response:
        return self._session.request(
            method,
            self.server + path,
            params=query,
            data=None if body is None else json.dumps(body),
            headers={
                "Accept": "application/json",
                "Authorization": f"Bearer {self._token}",
                "Content-Type": content_type,
                "User-Agent": FIELD_MANAGER,
            },
            timeout=(min(CONNECT_TIMEOUT, timeout), timeout),
            verify=str(self._ca_file),
            allow_redirects=False,
            stream=True,
        )


def _dry_run(wanted: bool) -> dict[str, str]:
    return {"dryRun": "All"} if wanted else {}


def _read(response: requests.Response) -> Any:
    """Return the parsed answer; text that is not JSON stays text."""
    body = bytearray()
    for chunk in response.iter_content(_CHUNK):
        body += chunk
        if len(body) > MAX_RESPONSE:
            raise ValueError(f"an answer of more than {MAX_RESPONSE} bytes")
    try:
        return json.loads(body)
    except ValueError:
        return body[:200].decode(errors="replace")


def _read_kubeconfig(path: Path) -> tuple[str, str, bytes]:
    """Return server, token and CA of the current context.

    Raises SystemExit with a sentence when the file lacks one of them.
    """
    try:
        config = yaml.safe_load(path.read_text())
        context = _named(config["contexts"], config["current-context"])["context"]
        cluster = _named(config["clusters"], context["cluster"])["cluster"]
        user = _named(config["users"], context["user"])["user"]
        return cluster["server"].rstrip("/"), user["token"], _ca(cluster, path.parent)
    except OSError as error:
        raise SystemExit(f"Cannot read the kubeconfig {path}: {error.strerror}.") from (
            None
        )
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError):
        raise SystemExit(
            f"The kubeconfig {path} needs a current context whose cluster has a server "
            "and a certificate authority, and whose user has a token."
        ) from None


def _named(items: list[dict[str, Any]], name: str) -> dict[str, Any]:
    for item in items:
        if item["name"] == name:
            return item
    raise KeyError(name)


def _ca(cluster: dict[str, Any], folder: Path) -> bytes:
    if "certificate-authority-data" in cluster:
        return base64.b64decode(cluster["certificate-authority-data"])
    return (folder / cluster["certificate-authority"]).read_bytes()
