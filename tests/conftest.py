"""What the rings above `unit` share: one control plane, one PostgreSQL, one template
database with the addon installed, one simulated operator. Each starts when a test first
asks for it, and tests keep out of each other's way by namespace and by database.
"""

import itertools
import tempfile
from pathlib import Path

import pytest

from environment.control_plane import ControlPlane
from environment.odoo import OdooInstall
from environment.postgres import Postgres
from environment.simulated_operator import SimulatedOperator
from tests.live_objects import clear_instances

CLUSTER_ID = "test-cluster"
TEMPLATE = "template_vworkspace"
OPERATOR_DELAY = 0.3  # s from a new generation to Ready

# The rings that start the simulated operator come last: it stays, and would answer what
# the others deploy, and say which cluster this is.
RINGS = ("unit", "integration", "faults", "environment", "browser")

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items):
    root = Path(__file__).parent
    items.sort(key=lambda item: RINGS.index(item.path.relative_to(root).parts[0]))


@pytest.fixture(scope="session")
def work():
    """A folder for this run's state, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="vworkspace-test-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL runs as another user
        yield Path(folder)


@pytest.fixture(scope="session")
def control_plane(work):
    """A real API server with RBAC, its etcd and its controller manager."""
    plane = ControlPlane(work / "control-plane", controller_manager=True)
    try:
        plane.start()
        plane.install_definitions()
        plane.grant([])
        yield plane
    finally:
        plane.stop()


@pytest.fixture(scope="session")
def postgres(work):
    server = Postgres(work / "postgres", durable=False)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def odoo_install():
    return OdooInstall.ensure()


@pytest.fixture(scope="session")
def template_database(odoo_install, postgres):
    """The name of a database with the addon installed; tests use copies of it."""
    odoo_install.prepare_database(postgres, TEMPLATE, demo=True)
    return TEMPLATE


@pytest.fixture(scope="session")
def operator(control_plane, work):
    """The simulated operator, whose admission guards the control plane from then on.

    What earlier rings left in the cluster goes first: it would have to report on
    thousands of instances before the first test's.
    """
    clear_instances(control_plane)
    process = SimulatedOperator(
        control_plane, work / "operator", cluster_id=CLUSTER_ID, delay=OPERATOR_DELAY
    )
    try:
        process.start()
        yield process
    finally:
        process.stop()


@pytest.fixture
def namespace(control_plane):
    """A gated namespace of the test's own, in which our service account has rights."""
    name = f"test-{next(_numbers)}"
    control_plane.create_namespace(name)
    control_plane.grant([name])
    return name
