"""Registering a cluster, as an admin does it."""

import pytest
from playwright.sync_api import expect

from environment.control_plane import ControlPlane


@pytest.fixture(scope="module")
def second_control_plane(tmp_path_factory):
    """A cluster that nobody registered yet."""
    plane = ControlPlane(tmp_path_factory.mktemp("second"))
    try:
        plane.start()
        plane.install_definitions()
        plane.grant([])
        yield plane
    finally:
        plane.stop()


def test_a_cluster_is_registered_activated_and_tested_and_keeps_its_token(
    screen, second_control_plane
):
    control_plane = second_control_plane
    token = control_plane.service_account_token()
    answers = []
    screen.page.on("response", lambda answer: answers.append(answer))
    screen.open_clusters()
    screen.new()
    screen.enter(
        name="Second",
        cluster_id="second-cluster",
        server_url=control_plane.server,
        ca_certificate=control_plane.ca_pem,
    )
    screen.tab("3. Credential")
    screen.enter(token=token)

    screen.save()
    expect(screen.input("token")).to_have_value("")
    screen.press("Verify")
    screen.tab("4. Verification")
    expect(screen.field("verification_state")).to_have_text("Passed")
    expect(screen.field("check_ids")).to_contain_text("Kubernetes v1.")
    screen.press("Activate")
    screen.expect_state("Active")
    screen.press("Test Connection")

    notification = screen.page.locator(".o_notification")
    expect(notification).to_contain_text("answers")
    expect(notification).to_contain_text(
        "system:serviceaccount:vworkspace-system:vworkspace-control-plane"
    )
    expect(notification).to_contain_text("ApplicationInstance")
    expect(screen.field("check_state")).to_have_text("Works")
    screen.tab("3. Credential")
    expect(screen.input("token")).to_have_value("")
    assert len(answers) > 3
    assert not [answer.url for answer in answers if token in _text(answer)]


def test_a_wrong_address_is_said_in_a_sentence(screen, odoo, control_plane):
    id_ = odoo.create(
        "vworkspace.cluster",
        name="Nowhere",
        cluster_id="nowhere",
        server_url="https://127.0.0.1:9",
        ca_certificate=control_plane.ca_pem,
        token=control_plane.service_account_token(),
    )
    screen.page.goto(f"/odoo/vworkspace-clusters/{id_}")

    screen.press("Verify")
    screen.tab("4. Verification")

    expect(screen.field("verification_state")).to_have_text("Failed")
    failed = screen.field("check_ids").locator("tr", has_text="127.0.0.1:9")
    expect(failed.first).to_contain_text("Failed")
    expect(
        screen.page.get_by_role("button", name="Activate", exact=True)
    ).to_be_hidden()
    odoo.session().call("vworkspace.cluster", "unlink", [id_])


def _text(answer):
    if answer.status in (204, 301, 302, 303, 304):
        return ""
    return answer.body().decode(errors="replace")


def test_a_dropped_kubeconfig_fills_in_the_address_and_is_forgotten(
    screen, second_control_plane, tmp_path
):
    control_plane = second_control_plane
    token = control_plane.service_account_token()
    dropped = control_plane.kubeconfig(tmp_path / "config", token=token, user="ours")
    screen.open_clusters()
    screen.new()
    screen.enter(name="Dropped", cluster_id="dropped-cluster")
    screen.tab("3. Credential")

    screen.drop("kubeconfig", dropped.read_text())
    screen.save()

    expect(screen.input("kubeconfig")).to_have_value("")
    expect(screen.field("credential_ids")).to_contain_text("user ours")
    screen.tab("1. Address")
    expect(screen.input("server_url")).to_have_value(control_plane.server)
    screen.press("Verify")
    screen.tab("4. Verification")
    expect(screen.field("verification_state")).to_have_text("Passed")
