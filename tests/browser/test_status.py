"""The truth on the screen: how old it is, how it came about, and where it leads."""

import re

import pytest
from playwright.sync_api import expect

APPLICATION = "vworkspace.application.instance"
CLUSTER = "vworkspace.cluster"
NAMESPACE = "vworkspace.cluster.namespace"
OPERATION = "vworkspace.operation"
BACKUP = {"capability": "backup", "engine": "velero"}
BEFORE_THE_NEXT_HEARTBEAT = 5_000  # ms; a heartbeat refreshes clusters, too
AS_LONG_AS_REFRESHES_WAIT = 5_000  # ms
AGE = re.compile(r"^as of \d+ s ago$")


def test_the_age_of_a_status_grows_by_itself(screen, make_application):
    _name, id_ = make_application()
    screen.open_application(id_)
    screen.expect_health("Ready")
    age = screen.field("as_of")
    expect(age).to_have_text(AGE)
    first = age.inner_text()

    expect(age).not_to_have_text(first)

    expect(age).to_have_text(AGE)
    expect(age.locator(".o_vworkspace_as_of")).to_have_attribute(
        "title", re.compile(r"\d:\d\d")
    )
    screen.expect_no_reload()


def test_the_timeline_tells_of_deliveries_transitions_and_people(
    screen, odoo, make_application, behave
):
    name, id_ = make_application()
    screen.open_application(id_)
    screen.expect_health("Ready")
    screen.tab("Timeline")
    rows = screen.page.locator(".o_vworkspace_timeline tbody tr")
    expect(rows.filter(has_text="Deploy").filter(has_text="Applied")).to_have_count(1)

    behave(name, "degrade")
    newest = rows.first
    expect(rows.filter(has_text="Health").first).to_contain_text("Degraded")
    expect(rows.filter(has_text="replicas").first).to_be_visible()

    odoo.session().call(APPLICATION, "action_pause", [id_])
    screen.press("People")
    expect(newest).to_contain_text("Pause")
    expect(rows).to_have_count(1)
    screen.press("Health")
    expect(rows.filter(has_text="Pause")).to_have_count(0)
    screen.expect_no_reload()


def test_the_overview_counts_by_health_and_leads_there(
    screen, make_application, behave
):
    name, _id = make_application()
    screen.page.goto("/odoo/vworkspace-overview")
    degraded = screen.page.get_by_role("button", name=re.compile(r"\d+ Degraded"))
    expect(screen.page.get_by_role("button", name="Ready").first).to_be_visible()
    screen.page.evaluate("window.stayed = true")
    expect(degraded).to_have_count(0)

    behave(name, "degrade")
    expect(degraded).to_have_count(1, timeout=BEFORE_THE_NEXT_HEARTBEAT)
    degraded.click()

    expect(screen.row(name)).to_be_visible()
    expect(screen.row_health(name)).to_have_text("Degraded")
    screen.expect_no_reload()


def test_a_cluster_says_who_watches_it_and_how_far_it_is_read(screen, cluster):
    screen.open_cluster(cluster)
    screen.tab("Status")

    expect(screen.field("watch_holder")).not_to_be_empty()
    streams = screen.field("stream_ids").locator(".o_data_row")
    expect(streams.filter(has_text="ApplicationInstance").first).to_contain_text(
        "Watching"
    )


def test_an_open_page_of_a_cluster_follows_what_its_streams_do(
    screen, odoo, cluster, no_heartbeat
):
    screen.open_cluster(cluster)
    screen.tab("Status")
    expect(screen.field("watch_state")).to_have_text("Watching")
    streams = screen.field("stream_ids").locator(".o_data_row")
    refused = streams.filter(has_text="not-granted")
    expect(refused).to_have_count(0)

    place = odoo.create(NAMESPACE, cluster_id=cluster, name="not-granted")
    # With many namespaces, the stream of one kind alone: the other is polled in turn.
    expect(refused.filter(has_text="Waiting").first).to_be_visible()
    expect(screen.field("watch_state")).to_have_text("Waiting")

    odoo.session().call(NAMESPACE, "unlink", [place])
    expect(refused).to_have_count(0)
    expect(screen.field("watch_state")).to_have_text("Watching")
    screen.expect_no_reload()


def test_an_open_form_says_it_when_its_clusters_news_do_not_arrive_any_more(
    screen, odoo, cluster, control_plane, namespace, make_application, no_heartbeat
):
    _name, id_ = make_application()
    screen.open_application(id_)
    screen.expect_health("Ready")
    problem = screen.alerts.filter(has_text="what the cluster reported last")
    expect(problem).to_have_count(0)

    control_plane.kubectl("delete", "rolebindings", "--all", "-n", namespace)
    start_streams_anew(odoo, cluster)
    expect(problem).to_contain_text("cannot")

    control_plane.grant([namespace])
    start_streams_anew(odoo, cluster)
    expect(problem).to_have_count(0)
    screen.expect_no_reload()


def test_an_open_operation_shows_how_it_goes_and_what_it_made(
    screen, odoo, make_application, operation
):
    screen.page.goto(f"/odoo/vworkspace-operations/{operation}")
    expect(screen.field("type")).to_be_visible()
    screen.page.evaluate("window.stayed = true")
    expect(screen.field("phase")).to_have_count(0)

    odoo.session().call(OPERATION, "action_deploy", [operation])

    expect(screen.field("phase")).to_have_text("Succeeded")
    expect(screen.field("outputs")).to_contain_text("backupName: ")
    expect(screen.field("as_of")).to_have_text(AGE)
    screen.expect_no_reload()


def test_an_open_timeline_follows_operations_and_pauses(
    screen, odoo, application_with_backups, operation
):
    screen.open_application(application_with_backups)
    screen.expect_health("Ready")
    screen.tab("Timeline")
    rows = screen.page.locator(".o_vworkspace_timeline tbody tr")
    expect(rows.first).to_be_visible()

    odoo.session().call(OPERATION, "action_deploy", [operation])
    expect(rows.filter(has_text="Succeeded").first).to_be_visible()

    odoo.session().call(APPLICATION, "action_pause", [application_with_backups])
    expect(rows.filter(has_text="Pause")).to_have_count(1)
    screen.expect_no_reload()


def test_an_endpoint_is_a_link_that_leaves_the_page_alone(screen, make_application):
    name, id_ = make_application()
    screen.open_application(id_)

    link = screen.field("endpoint_url").get_by_role("link")

    expect(link).to_have_attribute("href", re.compile(rf"^http://{name}\.[^/]+/?$"))
    expect(link).to_have_attribute("target", "_blank")
    expect(link).to_have_attribute("rel", "noopener noreferrer")


def test_a_card_says_how_old_its_status_is(screen, make_application):
    name, _id = make_application()
    screen.open_applications("kanban")

    card = screen.card(name, column="Ready")

    expect(card.locator("[name=as_of]")).to_have_text(AGE)


def test_a_page_that_nobody_sees_is_not_refreshed_and_catches_up(
    screen, make_application, behave
):
    name, id_ = make_application()
    screen.page.clock.install()
    screen.open_application(id_)
    screen.expect_health("Ready")
    screen.note_updates(id_)
    reads = []
    screen.page.on(
        "request", lambda sent: reads.append(sent.url) if "web_read" in sent.url else 0
    )

    screen.hide()
    behave(name, "degrade")
    screen.page.wait_for_function("window.updates > 0")
    screen.page.clock.fast_forward(AS_LONG_AS_REFRESHES_WAIT)
    screen.page.evaluate("() => fetch('/web/health').then((answer) => answer.text())")
    assert reads == []

    screen.show()
    screen.expect_health("Degraded")
    screen.expect_no_reload()


# === FIXTURES AND HELPERS === #


@pytest.fixture
def no_heartbeat(operator):
    """No sign of life of the cluster's operator, which would refresh pages as well."""
    operator.control(heartbeat=False)
    yield
    operator.control(heartbeat=True)


@pytest.fixture
def application_with_backups(make_application):
    """The id of an application of which backups can be made."""
    _name, id_ = make_application(capability_ids=[(0, 0, BACKUP)])
    return id_


@pytest.fixture
def operation(odoo, application_with_backups):
    """The id of a backup that nobody has started yet."""
    templates = odoo.session().call(
        *("vworkspace.operation.template", "search", [("name", "=", "backup.velero")])
    )
    return odoo.create(
        OPERATION, target_id=application_with_backups, template_id=templates[0]
    )


def start_streams_anew(odoo, cluster):
    """Have the worker connect anew, as after a change of the cluster's settings."""
    (settings,) = odoo.session().call(CLUSTER, "read", [cluster], ["ca_certificate"])
    del settings["id"]
    odoo.session().call(CLUSTER, "write", [cluster], settings)
