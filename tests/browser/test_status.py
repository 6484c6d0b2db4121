"""The truth on the screen: how old it is, how it came about, and where it leads."""

import re

from playwright.sync_api import expect

APPLICATION = "vworkspace.application.instance"
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
