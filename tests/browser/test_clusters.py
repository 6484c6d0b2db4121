"""Registering a cluster, as an admin does it."""

from playwright.sync_api import expect


def test_a_cluster_is_registered_and_tested_and_keeps_its_token(screen, control_plane):
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
        token=token,
    )

    screen.save()
    expect(screen.input("token")).to_have_value("")
    screen.press("Test Connection")

    notification = screen.page.locator(".o_notification")
    expect(notification).to_contain_text("answers")
    expect(notification).to_contain_text(
        "system:serviceaccount:vworkspace-system:vworkspace-control-plane"
    )
    expect(notification).to_contain_text("ApplicationInstance")
    expect(screen.field("check_state")).to_have_text("Works")
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

    screen.press("Test Connection")

    expect(screen.field("check_state")).to_have_text("Problem")
    expect(screen.alerts.filter(has_text="127.0.0.1:9")).to_be_visible()
    odoo.session().call("vworkspace.cluster", "unlink", [id_])


def _text(answer):
    if answer.status in (204, 301, 302, 303, 304):
        return ""
    return answer.body().decode(errors="replace")
