"""`make run`: the whole chain, in the foreground, until Ctrl-C.

Everything that runs is a child of this process. One that ends by itself ends the run,
with the tail of its log. The state is in the work folder; what is there already is
not made again.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from . import cache, demo
from .control_plane import ControlPlane
from .control_plane_build import program
from .odoo import START_TIMEOUT, WATCH_READY_LINE, OdooInstall, OdooServer
from .paths import ADDON, work_folder
from .postgres import Postgres, server_binaries
from .processes import Process, remembered_port
from .progress import Failure, log_tail, say, step
from .simulated_operator import SimulatedOperator

DATABASE = "vworkspace_demo"
PREFERRED_PORT = 8069  # Odoo's own, if it is free
WATCH_INTERVAL = 0.5  # s


class Demo:
    """The demo's parts and where their state is."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.logs = work / "logs"
        self.postgres = Postgres(work / "postgres", durable=True)
        self.control_plane = ControlPlane(work / "control-plane")
        self.operator = SimulatedOperator(
            self.control_plane, work / "operator", cluster_id=demo.CLUSTER_ID
        )
        self.server: OdooServer | None = None
        self.worker: Process | None = None

    @property
    def data_dir(self) -> Path:
        return self.work / "odoo"

    @property
    def config(self) -> Path:
        return self.work / "odoo.conf"

    def start(self, stack: ExitStack) -> None:
        """Start all parts; `stack` stops them in reverse order."""
        odoo = OdooInstall.ensure()
        server_binaries()
        for name in ("etcd", "kube-apiserver"):
            program(name)
        stack.callback(self.postgres.stop)
        with step("Starting PostgreSQL"):
            self.postgres.start()
        stack.callback(self.control_plane.stop)
        with step("Starting etcd and kube-apiserver"):
            self.control_plane.start()
        with step("Installing definitions, namespaces and the service account"):
            self._set_up_cluster()
        stack.callback(self.operator.stop)
        with step("Starting the simulated operator"):
            self.operator.start()
        self._prepare_database(odoo)
        self._start_odoo(odoo, stack)
        with step("Registering the cluster and deploying the first application"):
            demo.fill(self.server.url, DATABASE, self.control_plane)

    def processes(self) -> list[Process]:
        """Return what has to stay alive."""
        found = [
            *self.postgres.processes,
            *self.control_plane.processes,
            *self.operator.processes,
        ]
        if self.server:
            found.append(self.server.process)
        if self.worker:
            found.append(self.worker)
        return found

    def _set_up_cluster(self) -> None:
        self.control_plane.install_definitions()
        for name in demo.GATED_NAMESPACES:
            self.control_plane.create_namespace(name)
        self.control_plane.create_namespace(demo.PLAIN_NAMESPACE, gated=False)
        self.control_plane.grant(demo.GATED_NAMESPACES)

    def _prepare_database(self, odoo: OdooInstall) -> None:
        installed = self.work / "addon.fingerprint"
        current = addon_fingerprint()
        if not odoo.is_prepared(self.postgres, DATABASE):
            odoo.prepare_database(
                self.postgres, DATABASE, demo=True, data_dir=self.data_dir
            )
        elif not installed.exists() or installed.read_text() != current:
            odoo.upgrade_addon(self.postgres, DATABASE, data_dir=self.data_dir)
        installed.write_text(current)

    def _start_odoo(self, odoo: OdooInstall, stack: ExitStack) -> None:
        ports = self.work / "ports"
        wanted = _wanted_port(ports / "http")
        odoo.config_file(
            self.config,
            postgres=self.postgres,
            data_dir=self.data_dir,
            http_port=remembered_port(ports / "http", wanted),
            gevent_port=remembered_port(ports / "gevent"),
        )
        self.server = odoo.server(self.config, DATABASE, log=self.logs / "odoo.log")
        stack.callback(self.server.stop)
        with step("Starting Odoo"):
            self.server.start()
        self.worker = odoo.watch_worker(
            self.config, DATABASE, log=self.logs / "vworkspace_watch.log"
        )
        stack.callback(self.worker.stop)
        with step("Starting the watch worker"):
            self.worker.start()
            self.worker.wait_for_output(WATCH_READY_LINE, timeout=START_TIMEOUT)


def run() -> int:
    """Bring everything up and stay until Ctrl-C; return the exit code."""
    work = work_folder()
    with _alone(work):
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)
        started = time.monotonic()
        stack = ExitStack()
        try:
            parts = Demo(work)
            parts.start(stack)
            say(_welcome(parts, time.monotonic() - started))
            _watch(parts.processes)
        except KeyboardInterrupt:
            say("\nStopping …")
            return 0
        finally:
            # A second Ctrl-C must not leave half of it running.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            before = time.monotonic()
            stack.close()
            say(f"Stopped in {time.monotonic() - before:.1f} s; the data are kept.")


def clean() -> int:
    """Forget the demo: remove the work folder. The cache stays."""
    work = work_folder()
    if not work.exists():
        say(f"Nothing to remove: there is no {work}.")
        return 0
    with _alone(work):
        removed = Postgres(work / "postgres", durable=True).forget()
        shutil.rmtree(work)
    outside = [path for path in removed if work not in path.parents]
    for path in (*outside, work):
        say(f"Removed {path}")
    say(f"Kept the cache of downloads and builds, {cache.cache_folder()}")
    return 0


def shell() -> int:
    """Open an Odoo shell on the demo's database; return its exit code."""
    parts = Demo(work_folder())
    if not parts.config.exists():
        raise Failure("There is no demo yet; `make run` makes it.")
    odoo = OdooInstall.ensure()
    with ExitStack() as stack:
        if not _answers(parts.postgres):
            stack.callback(parts.postgres.stop)
            parts.postgres.start()
        # Ctrl-C belongs to the shell.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return odoo.shell(parts.config, DATABASE)


def kubectl(arguments: list[str]) -> int:
    """Run kubectl as admin of the demo's cluster; return its exit code."""
    parts = _existing_cluster()
    return subprocess.run(
        [str(program("kubectl")), *arguments],
        env=parts.control_plane.kubectl_environment(),
        check=False,
    ).returncode


def operator(arguments: list[str]) -> int:
    """Tell the demo's simulated operator how to behave."""
    from .operator.control import main

    parts = _existing_cluster()
    main(["--control", str(parts.operator.control_file), *arguments])
    return 0


def screenshots() -> int:
    """Take the documentation's screenshots from the running demo."""
    from .screenshots import take

    parts = _existing_cluster()
    port = (parts.work / "ports" / "http").read_text().strip()
    return take(parts.operator, url=f"http://127.0.0.1:{port}")


def addon_fingerprint() -> str:
    """Return a hash of all that Odoo loads from the addon."""
    files = sorted(
        path
        for path in ADDON.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )
    return cache.fingerprint(*(part for path in files for part in (str(path), path)))


def _wanted_port(remembered: Path) -> int:
    given = os.environ.get("ODOO_PORT")
    if given:
        if not given.isdecimal() or not 0 < int(given) < 65536:
            raise Failure(f"ODOO_PORT is {given!r}; it must be a port, like 8069.")
        return int(given)
    return 0 if remembered.exists() else PREFERRED_PORT


def _existing_cluster() -> Demo:
    parts = Demo(work_folder())
    if not parts.control_plane.admin_kubeconfig.exists():
        raise Failure("There is no demo yet; `make run` makes it.")
    return parts


def _answers(postgres: Postgres) -> bool:
    try:
        postgres.connect("postgres").close()
    except Exception:  # noqa: BLE001 - whatever the reason, it has to be started
        return False
    return True


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Hold the work folder, so that two runs do not share one database."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(
                f"A demo is already running from {work}. Stop it with Ctrl-C there, or"
                " set VWORKSPACE_WORK to another folder for a second one."
            ) from None
        yield


def _watch(processes: Callable[[], list[Process]]) -> None:
    while True:
        for process in processes():
            if not process.running:
                raise Failure(
                    f"{process.name} ended by itself (exit code {process.returncode})."
                    f"\n{log_tail(process.log)}"
                )
        time.sleep(WATCH_INTERVAL)


def _welcome(parts: Demo, seconds: float) -> str:
    instance = f"{demo.GATED_NAMESPACES[0]}/{demo.INSTANCE}"
    namespace, name = instance.split("/")
    return f"""
The demo is up after {seconds:.0f} s.

  Address   {parts.server.url}
  Login     {demo.LOGIN}, password {demo.PASSWORD}
  Logs      {parts.logs}

Three things to try, with the form of an application open in the browser:

1. Deploy a second one: vWorkspace → Applications → New. Its health turns from
   Progressing to Ready by itself.
2. Break the first one, and mend it again, in another terminal:
     make operator ARGS="degrade {instance}"
     make operator ARGS="heal {instance}"
3. Change a field behind Odoo's back, then change the chart version in Odoo, and
   deploy: the conflict is shown, nothing is overwritten. (The first use of kubectl
   builds it, about 2 minutes.)
     make kubectl ARGS="patch appinst {name} -n {namespace} --type merge \\
       --field-manager rival -p 'spec: {{chart: {{version: 6.0.0}}}}'"

Ctrl-C stops all of it and keeps the data; `make clean` forgets them.
"""
