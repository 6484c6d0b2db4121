"""The files in deploy/, as far as they can be judged without using them."""

import configparser

from environment.paths import CHECKOUT

DEPLOY = CHECKOUT / "deploy"
UNIT = DEPLOY / "systemd" / "vworkspace-watch.service"


def test_a_real_api_server_accepts_the_manifest(control_plane):
    said = control_plane.kubectl(
        *("apply", "--dry-run=server", "--validate=strict", "-n", "default"),
        *("-f", str(DEPLOY / "kubernetes" / "watch-worker.yaml")),
    )

    assert "deployment.apps/vworkspace-watch created" in said
    assert "networkpolicy.networking.k8s.io/vworkspace-watch created" in said


def test_the_unit_waits_longer_than_the_worker_needs_to_stop():
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str
    unit.read(UNIT)

    assert int(unit["Service"]["TimeoutStopSec"]) > 5
