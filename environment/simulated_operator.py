"""The simulated operator as a child process; see operator/README.md for what it does.

It gets a service account and a kubeconfig of its own, and a control file by which it
can be told to misbehave.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from .control_plane import SYSTEM_NAMESPACE, ControlPlane
from .operator import operator_manifests
from .paths import CHECKOUT
from .processes import Process

SERVICE_ACCOUNT = "vworkspace-operator"
READY_LINE = "operator ready"
START_TIMEOUT = 60.0  # s
STOP_TIMEOUT = 5.0  # s
TOKEN_LIFETIME = 365 * 86400  # s


class SimulatedOperator:
    """One simulated operator on one control plane."""

    def __init__(
        self,
        control_plane: ControlPlane,
        directory: Path,
        *,
        cluster_id: str,
        delay: float = 2.0,
    ) -> None:
        """
        :param directory: of its kubeconfig, control file and log
        :param cluster_id: the identity that its admission insists on
        :param delay: from seeing a new generation to Ready, in seconds
        """
        self.control_plane = control_plane
        self.directory = Path(directory).absolute()
        self.cluster_id = cluster_id
        self.delay = delay
        self._process: Process | None = None

    @property
    def kubeconfig(self) -> Path:
        return self.directory / "operator.kubeconfig"

    @property
    def control_file(self) -> Path:
        return self.directory / "operator.control.json"

    @property
    def log(self) -> Path:
        return self.directory / "operator.log"

    @property
    def processes(self) -> list[Process]:
        return [self._process] if self._process else []

    def start(self) -> None:
        """Start it; return when its admission is in effect."""
        self.control_plane.create_namespace(SYSTEM_NAMESPACE, gated=False)
        self.control_plane.apply(operator_manifests())
        self.control_plane.service_account_kubeconfig(
            self.kubeconfig, name=SERVICE_ACCOUNT, seconds=TOKEN_LIFETIME
        )
        self.control(delay=self.delay)
        self._process = self._new_process()
        self._process.start()
        self._process.wait_for_output(READY_LINE, timeout=START_TIMEOUT)

    def stop(self) -> None:
        """Stop it; it takes its admission webhook with it."""
        if self._process is not None:
            self._process.stop(STOP_TIMEOUT)

    def kill(self) -> None:
        """End it with SIGKILL: its webhook stays registered and answers nobody."""
        if self._process is not None:
            self._process.kill()

    def control(self, **changes: Any) -> None:
        """Change settings of the control file, such as `admission="refuse"`.

        The keys are those of operator/README.md; the others keep their values.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        settings = {}
        if self.control_file.exists():
            settings = json.loads(self.control_file.read_text() or "{}")
        fresh = self.control_file.with_suffix(".new")
        fresh.write_text(json.dumps({**settings, **changes}, indent=2) + "\n")
        fresh.replace(self.control_file)

    def _new_process(self) -> Process:
        return Process(
            "simulated operator",
            [
                *(sys.executable, "-m", "environment.operator"),
                *("--kubeconfig", self.kubeconfig, "--control", self.control_file),
                *("--cluster-id", self.cluster_id),
            ],
            log=self.log,
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
