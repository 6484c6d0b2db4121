"""A private PostgreSQL: its own data folder, reached through a unix socket only.

The system's server programs are used, or apt's. They refuse to run as root, so root
runs them as `postgres` (or `nobody`); where that account cannot reach the folder, or
the socket's path would be too long for the kernel, the cluster lives in a folder
under /var/tmp that is named after the one asked for.
"""

import contextlib
import hashlib
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import psutil
import psycopg2
from psycopg2 import sql

from .processes import Process, account_arguments, wait_until
from .progress import Failure, log_tail
from .system import find_program, install_packages, is_root, output_of

SUPERUSER = "odoo"
PORT = 5432  # names the socket file, nothing more
SOCKET_PATH_MAX = 100  # bytes; the kernel's limit is 108
START_TIMEOUT = 60.0  # s

# A test's data need not survive a crash of the machine.
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


class Postgres:
    """One PostgreSQL cluster in a folder."""

    def __init__(self, directory: Path, *, durable: bool) -> None:
        """
        :param directory: what the cluster belongs to; state is in `home`
        :param durable: whether commits survive a crash of the machine
        """
        self.directory = Path(directory).absolute()
        self.durable = durable
        self.user = _server_account()
        self.home = _home(self.directory, self.user)
        self._process: Process | None = None

    @property
    def socket_dir(self) -> Path:
        return self.home / "socket"

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def log(self) -> Path:
        return self.directory / "postgres.log"

    @property
    def processes(self) -> list[Process]:
        return [self._process] if self._process else []

    # === LIFE === #

    def start(self) -> None:
        """Start the server, making the cluster first if there is none."""
        if self._process is not None and self._process.running:
            return
        self._make_home()
        binaries = server_binaries()
        if not (self.data / "PG_VERSION").exists():
            self._make_cluster(binaries)
        self._check_version(binaries)
        settings = () if self.durable else FAST
        self._process = Process(
            "postgres",
            [
                *(binaries / "postgres", "-D", self.data, "-k", self.socket_dir),
                *("-c", "listen_addresses=", "-c", "max_connections=200"),
                *("-p", str(PORT)),
                *(word for setting in settings for word in ("-c", setting)),
            ],
            log=self.log,
            cwd=self.home,
            user=self.user,
            # "Fast": end the sessions, roll back, write a checkpoint.
            stop_signal=signal.SIGINT,
        )
        self._process.start()
        wait_until(
            lambda: self._execute("SELECT 1") is not None,
            what="PostgreSQL to be ready",
            timeout=START_TIMEOUT,
            process=self._process,
        )

    def stop(self) -> None:
        """Stop the server; open sessions end, committed data stay."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would."""
        if self._process is None or self._process.pid is None:
            return
        # Its backends lead sessions of their own, out of the group's reach.
        backends = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        for backend in backends:
            with contextlib.suppress(psutil.NoSuchProcess):
                backend.kill()
        psutil.wait_procs(backends, timeout=START_TIMEOUT)

    def restart(self) -> None:
        """Stop the server and start it again on the same socket."""
        self.stop()
        self.start()

    def forget(self) -> list[Path]:
        """Remove the cluster; return the folders that are gone."""
        self.stop()
        found = [path for path in (self.home, self.directory) if path.exists()]
        for path in found:
            shutil.rmtree(path, ignore_errors=True)
        return found

    # === DATABASES === #

    def create_database(self, name: str, template: str | None = None) -> None:
        """Create a database, as a copy of `template` if given.

        Nobody may be connected to the template: its sessions are ended.
        """
        source = template or "template0"
        if template:
            self._end_sessions(template)
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} ENCODING 'UTF8'")
        self._execute(statement.format(sql.Identifier(name), sql.Identifier(source)))

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists; its sessions are ended."""
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        self._execute(statement.format(sql.Identifier(name)))

    def has_database(self, name: str) -> bool:
        query = "SELECT 1 FROM pg_database WHERE datname = %s"
        return bool(self._execute(query, (name,)))

    def env(self) -> dict[str, str]:
        """Return the variables by which libpq programs find this server."""
        return {
            "PGHOST": str(self.socket_dir),
            "PGPORT": str(PORT),
            "PGUSER": SUPERUSER,
        }

    def connect(self, database: str) -> "psycopg2.extensions.connection":
        """Open a connection to a database."""
        return psycopg2.connect(
            host=str(self.socket_dir),
            port=PORT,
            user=SUPERUSER,
            dbname=database,
            connect_timeout=5,
        )

    def _end_sessions(self, database: str) -> None:
        self._execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = %s AND pid <> pg_backend_pid()",
            (database,),
        )

    def _execute(
        self, query: str | sql.Composable, values: tuple[str, ...] = ()
    ) -> list[tuple[object, ...]]:
        connection = self.connect("postgres")
        try:
            # CREATE and DROP DATABASE run outside a transaction.
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(query, values)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    # === FILES === #

    def _make_home(self) -> None:
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.user:
            account = pwd.getpwnam(self.user)
            os.chown(self.home, account.pw_uid, account.pw_gid)
        owner = self.home.lstat()
        wanted = pwd.getpwnam(self.user).pw_uid if self.user else os.getuid()
        if owner.st_uid != wanted or not stat.S_ISDIR(owner.st_mode):
            raise Failure(f"{self.home} belongs to somebody else; have it removed.")
        self._as_server("mkdir", "-p", "-m", "0700", str(self.socket_dir))

    def _make_cluster(self, binaries: Path) -> None:
        fresh = self.home / "data.new"  # an interrupted initdb leaves no half cluster
        shutil.rmtree(fresh, ignore_errors=True)
        self._as_server(
            *(str(binaries / "initdb"), "-D", str(fresh), "-U", SUPERUSER),
            *("--auth=trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"),
        )
        fresh.rename(self.data)

    def _check_version(self, binaries: Path) -> None:
        made_by = (self.data / "PG_VERSION").read_text().strip()
        version = _major_version(binaries)
        if version and version != made_by:
            raise Failure(
                f"{self.data} was made by PostgreSQL {made_by}, and this machine now"
                f" has {version}. `make clean` forgets the old data."
            )

    def _as_server(self, *command: str) -> None:
        with self.log.open("ab") as output:
            code = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.home,
                check=False,
                **account_arguments(self.user),
            ).returncode
        if code:
            raise Failure(f"`{command[0]}` failed.\n{log_tail(self.log)}")


def server_binaries() -> Path:
    """Return the folder of PostgreSQL's server programs; the newest the system has."""
    found = _installed_binaries()
    if found is None:
        install_packages(
            ["postgresql"], otherwise="Or put PostgreSQL's server programs on PATH."
        )
        found = _installed_binaries()
    if found is None:
        raise Failure("apt's postgresql brought no server programs; install one.")
    return found


def _installed_binaries() -> Path | None:
    debian = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    newest = sorted(debian, key=lambda path: float(path.parent.parent.name))
    if newest:
        return newest[-1].parent
    on_path = find_program("postgres")
    return on_path.resolve().parent if on_path else None


def _major_version(binaries: Path) -> str:
    match = re.search(r"(\d+)", output_of([binaries / "postgres", "--version"]))
    return match.group(1) if match else ""


def _server_account() -> str | None:
    if not is_root():
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _home(directory: Path, user: str | None) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    socket = directory / "cluster" / "socket" / f".s.PGSQL.{PORT}"
    if len(os.fsencode(socket)) < SOCKET_PATH_MAX and _reachable(directory, user):
        return directory / "cluster"
    name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]
    return Path(f"/var/tmp/vworkspace-push-{os.getuid()}-{name}")  # noqa: S108


def _reachable(directory: Path, user: str | None) -> bool:
    """Say whether `user` gets as far as `directory`, going by the rights of others."""
    if user is None:
        return True
    path_down = (directory, *directory.parents)
    return all(path.stat().st_mode & stat.S_IXOTH for path in path_down)
