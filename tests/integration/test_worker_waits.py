"""A watch worker that is there before its database, or before the addon in it."""

import pytest

from environment.odoo import WATCH_READY_LINE
from tests.waiting import eventually

NAME = "worker_waits"
NOISE = (" WARNING ", " ERROR ", " CRITICAL ", "Traceback")
NO_DATABASE = "database lost, trying again"
NO_ADDON = "the addon is not installed here"
START = 60.0  # s until a process has read its configuration and Odoo


def test_it_says_once_what_it_waits_for_and_goes_on_when_that_is_there(
    worker, database, postgres, odoo_install, template_database
):
    worker.start()
    eventually(lambda: NO_DATABASE in worker.output(), what="it to wait", timeout=START)
    postgres.create_database(NAME)
    eventually(lambda: NO_ADDON in worker.output(), what="it to look", timeout=START)
    postgres.drop_database(NAME)
    odoo_install.copy_database(postgres, template_database, NAME)

    worker.wait_for_output(WATCH_READY_LINE, timeout=START)

    output = worker.output()
    assert output.count(NO_ADDON) == 1
    assert output.count(NO_DATABASE) <= 2  # before there was one, and between two
    assert [line for line in output.splitlines() if has_noise(line)] == []


@pytest.mark.parametrize(
    ("state", "is_there"),
    [
        ("installed", True),
        ("to upgrade", True),
        ("to install", False),
        ("uninstalled", False),
    ],
)
def test_only_an_addon_that_is_installed_is_there(database, state, is_there):
    from odoo.addons.vworkspace_push.status import worker

    set_state(database, state)
    try:
        if is_there:
            worker._check_installed(database.name)
        else:
            with pytest.raises(worker.NotInstalledError):
                worker._check_installed(database.name)
    finally:
        set_state(database, "installed")


# === FIXTURES AND HELPERS === #


@pytest.fixture
def worker(database, odoo_install, postgres, work):
    """A worker of a database that does not exist, not started yet."""
    process = odoo_install.watch_worker(
        database.config, NAME, log=work / "logs" / "worker-waits.log"
    )
    yield process
    process.stop()
    postgres.drop_database(NAME)


def set_state(database, state):
    database.sql(
        "UPDATE ir_module_module SET state = %s WHERE name = 'vworkspace_push'", state
    )


def has_noise(line):
    return any(word in line for word in NOISE)
