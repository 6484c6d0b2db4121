"""The Cluster object: made if missing, and kept Connected with a fresh heartbeat."""

import logging
import threading
from typing import Any

from .api import ApiError, ApiServer
from .conditions import Wanted, render
from .control import ControlFile
from .engine import Engine, timestamp
from .resources import CLUSTER, TEMPLATES, allowed_types

INTERVAL = 10.0  # s
RETRY_PAUSE = 1.0  # s

_CONDITIONS = (
    Wanted("Connected", "True", "HeartbeatSent", "The operator is connected"),
    Wanted("Disconnected", "False", "HeartbeatSent"),
    Wanted("Authenticated", "True", "TokenAccepted"),
    Wanted("ControllersHealthy", "True", "AllRunning"),
    Wanted("BufferOverflow", "False", "BufferEmpty"),
)

_logger = logging.getLogger(__name__)


class Heartbeat:
    """Writes the status of the Cluster object that is named by the cluster id."""

    def __init__(self, api: ApiServer, *, cluster_id: str, control: ControlFile):
        self._api = api
        self._cluster_id = cluster_id
        self._control = control
        self._path = CLUSTER.path(name=cluster_id)
        self._wake = threading.Event()
        self._cluster: dict[str, Any] | None = None

    def start(self, engine: Engine) -> None:
        """Beat in a thread of its own, with the namespaces that `engine` sees gated."""
        threading.Thread(target=self._run, args=(engine,), daemon=True).start()

    def beat_soon(self) -> None:
        """Beat out of turn: what the status says has changed."""
        self._wake.set()

    def _run(self, engine: Engine) -> None:
        engine.listed.wait()
        while True:
            self._wake.clear()
            pause = INTERVAL
            if self._control.current.heartbeat:
                pause = self._beat(engine)
            self._wake.wait(pause)

    def _beat(self, engine: Engine) -> float:
        """Write one heartbeat; return how many seconds to wait for the next."""
        try:
            if self._cluster is None:
                self._cluster = self._api.apply(self._path, self._identity())
            namespaces = [_managed(item) for item in engine.gated_namespaces()]
            now = timestamp()
            status = {
                "phase": "Connected",
                "lastHeartbeat": now,
                "conditions": render(self._cluster, _CONDITIONS, at=now),
                "managedNamespaces": namespaces,
            }
            body = self._identity() | {"status": status}
            del body["spec"]
            self._cluster = self._api.apply(f"{self._path}/status", body)
        except ApiError as error:
            _logger.warning("no heartbeat: %s", error)
            self._cluster = None
            return RETRY_PAUSE
        return INTERVAL

    def _identity(self) -> dict[str, Any]:
        return {
            "apiVersion": CLUSTER.api_version,
            "kind": CLUSTER.name,
            "metadata": {"name": self._cluster_id},
            "spec": {"clusterId": self._cluster_id},
        }


def _managed(namespace: dict[str, Any]) -> dict[str, Any]:
    allowed = allowed_types(namespace)
    return {
        "name": namespace["metadata"]["name"],
        "allowedOperationTemplates": [
            template.name
            for template in TEMPLATES
            if allowed is None or template.type in allowed
        ],
    }
