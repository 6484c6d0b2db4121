"""A person at a browser: a running Odoo, its watch worker, the simulated operator, and
a page for each user who takes part.

A test fails when the browser's console or Odoo's log complains, and leaves a picture
of what was on the screen when it failed.
"""

import itertools
import re
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import sync_playwright

from environment import demo
from environment.browser import chromium, flags
from environment.odoo import START_TIMEOUT, WATCH_READY_LINE
from environment.paths import work_folder
from environment.processes import Process, free_port
from environment.rpc import Rpc
from tests.browser.screens import Screens
from tests.conftest import CLUSTER_ID

DATABASE = "browser"
APPLICATION = "vworkspace.application.instance"
NAMESPACE = "vworkspace.cluster.namespace"
SPARE = "spare"
VIEWPORT = {"width": 1400, "height": 900}
WARM_UP_TIMEOUT = 120_000  # ms; the first page compiles Odoo's scripts and styles

# Debian's package of Odoo leaves this library out; Odoo's page and log complain.
KNOWN_COMPLAINTS = ("selfie_segmentation",)

# A record of Odoo's log, which may go on over several lines.
LOG_RECORD = re.compile(
    r"^\d{4}-\d\d-\d\d \S+ \d+ (?P<level>[A-Z]+) .*(?:\n(?!\d{4}-\d\d-\d\d ).*)*",
    re.MULTILINE,
)
EXPECTED_IN_LOG = (
    # How Odoo logs that it answered a request with a sentence for the user.
    re.compile(r" WARNING \S+ odoo\.http: "),
    # A user's request and the status feed met on one row; Odoo starts it over.
    re.compile(r" odoo\.sql_db: bad query: .*could not serialize access", re.DOTALL),
)

_numbers = itertools.count(1)


@dataclass
class RunningOdoo:
    """One Odoo with one database, and those who use it."""

    url: str
    processes: list[Process]
    _sessions: dict[str, Rpc] = field(default_factory=dict)

    def session(self, login="admin"):
        """Log a user in, once; the password is the login, as in the demo data."""
        if login not in self._sessions:
            self._sessions[login] = Rpc(self.url, DATABASE, login=login, password=login)
        return self._sessions[login]

    def create(self, model, **values):
        """Create a record as admin; return its id."""
        return self.session().call(model, "create", [values])[0]

    def new_user(self, login, *, group=None, **values):
        """Create an internal user, in one of the addon's groups if one is given."""
        if group:
            _model, group_id = self.session().call(
                "ir.model.data", "check_object_reference", "vworkspace_push", group
            )
            values["group_ids"] = [(4, group_id)]
        self.create(
            "res.users", name=login.title(), login=login, password=login, **values
        )

    def complaints(self):
        """Return what was logged at WARNING and above and is not expected."""
        return [
            record.group()
            for process in self.processes
            for record in LOG_RECORD.finditer(process.output())
            if record["level"] in ("WARNING", "ERROR", "CRITICAL")
            and not any(text.search(record.group()) for text in EXPECTED_IN_LOG)
            and _is_new(record.group())
        ]


# === THE PARTS === #


@pytest.fixture(scope="session")
def odoo(odoo_install, postgres, template_database, operator, work):
    """Odoo's server and the watch worker on a copy of the template database."""
    odoo_install.copy_database(postgres, template_database, DATABASE)
    port = free_port()
    config = odoo_install.config_file(
        work / "odoo" / "browser.conf",
        postgres=postgres,
        data_dir=postgres.directory.parent / "odoo",
        http_port=port,
        gevent_port=port,  # without workers, the websocket is on the same port
    )
    logs = work / "logs"
    server = odoo_install.server(config, DATABASE, log=logs / "browser-odoo.log")
    worker = odoo_install.watch_worker(config, DATABASE, log=logs / "browser-watch.log")
    try:
        server.start()
        worker.start()
        worker.wait_for_output(WATCH_READY_LINE, timeout=START_TIMEOUT)
        yield RunningOdoo(server.url, [server.process, worker])
    finally:
        worker.stop()
        server.stop()


@pytest.fixture(scope="session")
def cluster(odoo, control_plane):
    """The id of an active cluster, as an admin would register it."""
    id_ = odoo.create(
        "vworkspace.cluster",
        name="Production",
        cluster_id=CLUSTER_ID,
        server_url=control_plane.server,
        ca_certificate=control_plane.ca_pem,
        token=control_plane.service_account_token(),
    )
    demo.activate(odoo.session().call, id_)
    # With a single namespace, the form would fill that in by itself.
    control_plane.create_namespace(SPARE)
    control_plane.grant([SPARE])
    odoo.create("vworkspace.cluster.namespace", cluster_id=id_, name=SPARE)
    return id_


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(chromium()), args=flags()
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def profiles(browser, odoo):
    """Return a function that gives each user a browser profile that has been used."""
    made = {}

    def of(login):
        if login not in made:
            made[login] = browser.new_context(viewport=VIEWPORT, base_url=odoo.url)
            _enter(made[login], odoo, login)
            _warm_up(made[login])
        return made[login]

    return of


# === WHAT A TEST ASKS FOR === #


@pytest.fixture
def browse(profiles, request):
    """Return a function that opens a window as a user: `browse("demo")`."""
    opened = []
    complaints = []

    def listen(page):
        page.on(
            "console",
            lambda said: said.type == "error" and complaints.append(said.text),
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))

    def open_as(login="admin"):
        page = profiles(login).new_page()
        listen(page)
        opened.append(page)
        return Screens(page)

    yield open_as
    if request.node.stash.get(_FAILED, False):
        for number, page in enumerate(opened):
            print(f"Picture: {_take_picture(page, request.node.name, number)}")
    for page in opened:
        page.close()
    assert list(filter(_is_new, complaints)) == []


@pytest.fixture
def screen(browse):
    """A browser in which the admin is logged in."""
    return browse("admin")


@pytest.fixture
def place(odoo, cluster, namespace):
    """The id of the record of the test's own namespace."""
    return odoo.create(NAMESPACE, cluster_id=cluster, name=namespace)


@pytest.fixture
def make_application(odoo, cluster, place):
    """Return a function that creates an application and returns its name and id."""

    def make(*, deployed=True, **values):
        name = values.pop("name", f"wiki-{next(_numbers)}")
        id_ = odoo.create(
            APPLICATION,
            **{
                "name": name,
                "cluster_id": cluster,
                "namespace_id": place,
                "catalog_id": "wiki",
                "chart_url": "oci://registry.example.com/charts",
                "chart_name": "wiki",
                "chart_version": "1.4.2",
                "values_yaml": "replicas: 1\n",
                **values,
            },
        )
        if deployed:
            odoo.session().call(APPLICATION, "action_deploy", [id_])
        return name, id_

    return make


@pytest.fixture
def behave(operator, namespace):
    """Return a function that tells the operator how an instance is to fare."""

    def tell(name, behaviour):
        instances = {f"{namespace}/{name}": behaviour} if behaviour else {}
        operator.control(instances=instances)

    yield tell
    operator.control(instances={})


@pytest.fixture(autouse=True)
def quiet_log(odoo):
    """Fail a test during which Odoo or the worker logged a warning or an error."""
    before = len(odoo.complaints())
    yield
    assert odoo.complaints()[before:] == []


# === INSIDE === #

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    return report


def _enter(context, odoo, login):
    session_id = odoo.session(login).session_id
    context.add_cookies([{"name": "session_id", "value": session_id, "url": odoo.url}])


def _is_new(complaint):
    return not any(known in complaint for known in KNOWN_COMPLAINTS)


def _warm_up(profile):
    page = profile.new_page()
    page.goto("/odoo", timeout=WARM_UP_TIMEOUT)
    page.locator(".o_main_navbar").wait_for(timeout=WARM_UP_TIMEOUT)
    page.close()


def _take_picture(page, test, number):
    folder = work_folder() / "test-output"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{re.sub(r'[^a-z0-9_]+', '-', test)}-{number}.png"
    page.screenshot(path=path)
    return path
