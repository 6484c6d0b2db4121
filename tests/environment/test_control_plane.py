"""The control plane keeps its address and its data through what tests do to it."""

import pytest
import requests

from environment.control_plane import ControlPlane
from environment.progress import Failure

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    plane = ControlPlane(tmp_path_factory.mktemp("control-plane"))
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()


def _config_map(name):
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


def test_killed_server_comes_back_with_its_data_on_its_address(plane):
    plane.apply([_config_map("before")])
    address = plane.server
    plane.kill()
    with pytest.raises(requests.ConnectionError):
        plane.request("GET", "/readyz")
    plane.start()
    assert plane.server == address
    assert plane.request("GET", f"{CONFIG_MAPS}/before")["metadata"]["name"] == "before"


def test_stopped_control_plane_starts_again_from_its_folder(plane):
    plane.apply([_config_map("kept")])
    address, token = plane.server, plane.admin_token
    plane.stop()
    again = ControlPlane(plane.directory)
    try:
        again.start()
        assert (again.server, again.admin_token) == (address, token)
        assert again.request("GET", f"{CONFIG_MAPS}/kept")
    finally:
        again.stop()
        plane.start()


def test_restored_control_plane_holds_what_it_held_when_it_was_backed_up(plane):
    plane.apply([_config_map("old")])
    old = plane.request("GET", f"{CONFIG_MAPS}/old")
    backup = plane.back_up()
    plane.apply([{**_config_map("old"), "data": {"key": "new"}}, _config_map("lost")])
    plane.restore(backup)
    assert plane.request("GET", f"{CONFIG_MAPS}/old") == old
    with pytest.raises(Failure, match="404"):
        plane.request("GET", f"{CONFIG_MAPS}/lost")


def test_watch_from_before_a_compaction_and_restart_is_expired(plane):
    version = plane.request("GET", CONFIG_MAPS)["metadata"]["resourceVersion"]
    plane.apply([_config_map("newer")])
    plane.compact()
    plane.restart()
    query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": "5"}
    event = plane.request("GET", CONFIG_MAPS, query=query)
    assert event["type"] == "ERROR"
    assert event["object"]["code"] == 410


def test_frozen_server_goes_on_when_thawed(plane):
    plane.freeze()
    try:
        with pytest.raises(requests.Timeout):
            requests.get(
                f"{plane.server}/readyz", verify=str(plane.ca_file), timeout=0.3
            )
    finally:
        plane.thaw()
    assert plane.request("GET", "/readyz") == "ok"


def test_refusal_carries_the_servers_words(plane):
    with pytest.raises(Failure, match='configmaps "nothing" not found'):
        plane.request("GET", f"{CONFIG_MAPS}/nothing")


def test_tokens_are_readable_by_us_alone(plane):
    private = ("admin.token", "admin.kubeconfig", "tokens.csv", "service-accounts.key")
    for name in (*private, "certificates/ca.key", "certificates/server.key"):
        assert (plane.directory / name).stat().st_mode & 0o077 == 0, name
