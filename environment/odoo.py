"""Odoo 19.0: where it comes from, and its processes.

`ODOO_SOURCE` names a checkout of Odoo 19.0. Without it, Debian's package `odoo-19` is
downloaded and unpacked (not installed) into the cache. Either runs in the virtual
environment, each process with a configuration file of its own.
"""

import configparser
import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import requests
from cryptography.fernet import Fernet

from . import cache, debian
from .paths import CHECKOUT
from .postgres import PORT, SUPERUSER, Postgres
from .processes import Process, wait_until
from .progress import Failure, run_logged, step
from .python_env import ensure_python

ADDON = "vworkspace_push"
SCRIPT = Path(__file__).with_name("scripts") / "odoo"
UNSTABLE = (
    "odoo-19",
    # What its links to scripts and fonts point to.
    "libjs-jquery",
    "libjs-jquery-form",
    "libjs-underscore",
    "fonts-roboto-unhinted",
    "fonts-montserrat",
    "fonts-ocr-b",
)
STABLE = ("fonts-font-awesome", "fonts-inconsolata")
WATCH_READY_LINE = "watch worker ready"
START_TIMEOUT = 120.0  # s; includes loading the registry
STOP_TIMEOUT = 10.0  # s


class OdooServer:
    """A running Odoo: HTTP server and, in the same process group, its crons."""

    def __init__(self, process: Process, url: str) -> None:
        self.process = process
        self.url = url

    def start(self) -> None:
        """Start it; return when the login page is served."""
        self.process.start()
        with requests.Session() as session:
            session.trust_env = False
            wait_until(
                lambda: session.get(f"{self.url}/web/login", timeout=(5, 60)).ok,
                what="Odoo to serve its login page",
                timeout=START_TIMEOUT,
                process=self.process,
            )

    def stop(self) -> None:
        """Ask it to stop and wait for that."""
        self.process.stop(STOP_TIMEOUT)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self.process.kill()


class OdooInstall:
    """One Odoo 19.0 and the Python that runs it."""

    def __init__(self, *, python: Path, source: Path) -> None:
        """
        :param source: the folder that holds the package `odoo`
        """
        self.python = python
        self.source = source

    @classmethod
    def ensure(cls) -> "OdooInstall":
        """Return the installation; download it first when it is not there.

        :raise Failure: with the sentence about what a person can do
        """
        return cls(python=ensure_python(), source=_source())

    # === CONFIGURATION === #

    def config_file(
        self,
        path: Path,
        *,
        postgres: Postgres,
        data_dir: Path,
        http_port: int,
        gevent_port: int,
        extra: Mapping[str, object] | None = None,
    ) -> Path:
        """Write an odoo.conf, and beside it the keys that seal secrets.

        :param data_dir: attachments and sessions
        :param extra: more options, or other values for these
        """
        options = {
            "addons_path": CHECKOUT,
            "admin_passwd": secrets.token_urlsafe(24),
            "data_dir": data_dir,
            "db_host": postgres.socket_dir,
            "db_port": PORT,
            "db_user": SUPERUSER,
            "http_interface": "127.0.0.1",
            "http_port": http_port,
            "gevent_port": gevent_port,
            "list_db": False,
            "max_cron_threads": 1,
            "proxy_mode": False,
            **(extra or {}),
        }
        config = configparser.RawConfigParser()
        config["options"] = {key: str(value) for key, value in options.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with path.open("w") as file:
            config.write(file)
        _make_keys(_keys_file(path))
        return path

    def environment(
        self, config: Path, env: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """Return the environment of a process of this Odoo with that configuration."""
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("ODOO_", "PG", "PYTHON", "VWORKSPACE_"))
        }
        return {
            **inherited,
            "ODOO_RC": str(config),
            "PYTHONPATH": str(self.source),
            "PYTHONUNBUFFERED": "1",
            "VWORKSPACE_PUSH_KEYS_FILE": str(_keys_file(config)),
            "VWORKSPACE_PUSH_ALLOW_LOOPBACK": "1",  # where our API servers listen
            **(env or {}),
        }

    def command(self, *arguments: str | Path) -> list[str]:
        """Return the command line of `odoo` with `arguments`."""
        return [str(self.python), str(SCRIPT), *map(str, arguments)]

    # === DATABASES === #

    def prepare_database(
        self,
        postgres: Postgres,
        name: str,
        *,
        demo: bool,
        data_dir: Path | None = None,
    ) -> None:
        """Make a database with the addon installed, in place of one of that name.

        :param data_dir: attachments; by default the folder `odoo` beside PostgreSQL's
        :raise Failure: the addon does not install; with the end of the log
        """
        log = postgres.directory.parent / "logs" / f"install-{name}.log"
        config = self._offline_config(postgres, data_dir)
        postgres.drop_database(name)
        postgres.create_database(name)
        with step(f"Installing Odoo and the addon into the database {name}"):
            run_logged(
                self.command(
                    *("-c", config, "-d", name, "-i", ADDON, "--stop-after-init"),
                    # Modules that install themselves ask hosts on the internet.
                    *("--no-http", "--skip-auto-install"),
                    "--with-demo" if demo else "--without-demo",
                ),
                log=log,
                env=self.environment(config),
                cwd=Path("/"),
            )
        if not self.is_prepared(postgres, name):
            raise Failure(f"Odoo did not install the addon; see {log}.")

    def upgrade_addon(
        self, postgres: Postgres, name: str, *, data_dir: Path | None = None
    ) -> None:
        """Bring the addon in a database up to the checkout's."""
        config = self._offline_config(postgres, data_dir)
        with step(f"Upgrading the addon in the database {name}"):
            run_logged(
                self.command(
                    *("-c", config, "-d", name, "-u", ADDON),
                    *("--stop-after-init", "--no-http"),
                ),
                log=postgres.directory.parent / "logs" / f"upgrade-{name}.log",
                env=self.environment(config),
                cwd=Path("/"),
            )

    def is_prepared(self, postgres: Postgres, name: str) -> bool:
        """Say whether a database exists and has the addon installed."""
        if not postgres.has_database(name):
            return False
        connection = postgres.connect(name)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT to_regclass('ir_module_module')")
                if cursor.fetchone() == (None,):
                    return False
                cursor.execute(
                    "SELECT state FROM ir_module_module WHERE name = %s", (ADDON,)
                )
                return cursor.fetchone() == ("installed",)
        finally:
            connection.close()

    def copy_database(
        self,
        postgres: Postgres,
        source: str,
        name: str,
        *,
        data_dir: Path | None = None,
    ) -> None:
        """Make the database `name` a copy of `source`, attachments included."""
        postgres.create_database(name, template=source)
        filestore = (data_dir or _data_dir(postgres)) / "filestore"
        shutil.rmtree(filestore / name, ignore_errors=True)
        if (filestore / source).exists():
            # Attachments are named by their content and never change: links will do.
            shutil.copytree(filestore / source, filestore / name, copy_function=os.link)

    def _offline_config(self, postgres: Postgres, data_dir: Path | None) -> Path:
        return self.config_file(
            postgres.directory.parent / "odoo-offline.conf",
            postgres=postgres,
            data_dir=data_dir or _data_dir(postgres),
            http_port=0,
            gevent_port=0,
        )

    # === PROCESSES === #

    def server(
        self,
        config: Path,
        database: str,
        *,
        log: Path,
        workers: int = 0,
        env: Mapping[str, str] | None = None,
    ) -> OdooServer:
        """Return an Odoo server for one database, not started yet.

        :param workers: 0 = one process with threads; else that many HTTP workers, and
            the websocket on the configuration's `gevent_port`
        :param env: more variables for the process
        """
        process = Process(
            "odoo",
            self.command(
                *("-c", config, "-d", database),
                *("--db-filter", f"^{database}$", "--workers", str(workers)),
            ),
            log=log,
            env=self.environment(config, env),
        )
        port = _option(config, "http_port")
        return OdooServer(process, f"http://127.0.0.1:{port}")

    def watch_worker(
        self,
        config: Path,
        database: str,
        *options: str,
        log: Path,
        metrics_port: int = 0,
        env: Mapping[str, str] | None = None,
    ) -> Process:
        """Return the watch worker of one database, not started yet.

        It watches once it has written WATCH_READY_LINE.

        :param options: more of them, for the command
        :param metrics_port: where it serves its health and metrics; 0 = nowhere
        """
        # Odoo finds an addon's command by ODOO_RC's addons path, not by `-c`'s.
        return Process(
            "vworkspace_watch",
            self.command(
                *("vworkspace_watch", "-d", database),
                *("--metrics-port", str(metrics_port), *options),
            ),
            log=log,
            env=self.environment(config, env),
        )

    def shell(self, config: Path, database: str) -> int:
        """Run an Odoo shell on a database at this terminal; return its exit code."""
        return subprocess.run(
            self.command("shell", "-c", config, "-d", database, "--no-http"),
            env=self.environment(config),
            check=False,
        ).returncode


def _source() -> Path:
    given = os.environ.get("ODOO_SOURCE")
    if given:
        return _given_source(Path(given).expanduser().absolute())
    key = cache.fingerprint(*UNSTABLE, *STABLE)
    return cache.entry(f"odoo-19.0-{key}", _download) / "usr/lib/python3/dist-packages"


def _given_source(source: Path) -> Path:
    release = source / "odoo" / "release.py"
    if not release.exists():
        raise Failure(
            f"ODOO_SOURCE names {source}, which has no odoo/release.py. Name the folder"
            " of a clone of Odoo 19.0."
        )
    if "version_info = (19, 0," not in release.read_text():
        raise Failure(f"ODOO_SOURCE names {source}, which is not Odoo 19.0.")
    return source


def _download(folder: Path) -> None:
    log = cache.build_log("odoo")
    try:
        with step("Downloading Odoo 19.0 from Debian (130 MB, once)"):
            debian.unpack(folder, unstable=UNSTABLE, stable=STABLE, log=log)
    except Failure as exc:
        raise Failure(
            "Odoo 19.0 could not be taken from Debian. Clone Odoo's branch 19.0 and set"
            f" ODOO_SOURCE to the clone's folder, then run this again.\n{exc}"
        ) from exc


def _data_dir(postgres: Postgres) -> Path:
    return postgres.directory.parent / "odoo"


def _keys_file(config: Path) -> Path:
    return config.parent / "sealing.keys"


def _make_keys(path: Path) -> None:
    if not path.exists():
        path.touch(mode=0o600)
        path.write_bytes(Fernet.generate_key() + b"\n")


def _option(config: Path, name: str) -> str:
    parser = configparser.RawConfigParser()
    parser.read(config)
    return parser["options"][name]
