"""What a person sees and does with applications, from the first to the last."""

import json
import re

import pytest
from playwright.sync_api import expect

APPLICATION = "vworkspace.application.instance"


# === DEPLOYING === #


def test_deploy_from_the_form_turns_ready_without_a_reload(browse, place, namespace):
    screen = browse("demo")
    screen.open_applications()
    screen.new()
    screen.fill_in_application(name="intranet", namespace=namespace)
    screen.enter(values_yaml="replicaCount: 2")

    screen.press("Deploy")

    screen.expect_delivery("Applied")
    screen.expect_health("Ready")
    link = screen.field("endpoint_url").get_by_role("link")
    expect(link).to_have_attribute("href", re.compile(r"^https?://intranet\."))
    screen.tab("Conditions")
    conditions = screen.field("condition_ids").locator(".o_data_row")
    expect(conditions.filter(has_text="Ready").first).to_contain_text("True")
    screen.expect_no_reload()


def test_deploying_a_change_is_offered_once_something_changed(screen, make_application):
    _name, id_ = make_application()
    screen.open_application(id_)
    screen.expect_health("Ready")
    deploy = screen.page.get_by_role("button", name="Deploy", exact=True)
    expect(deploy).to_be_hidden()

    screen.enter(chart_version="1.5.0")
    deploy.click()

    expect(screen.field("health_message")).to_contain_text("1.5.0")
    screen.expect_delivery("Applied")
    expect(deploy).to_be_hidden()


def test_delete_from_cluster_asks_first_and_ends_as_deleted(screen, make_application):
    name, id_ = make_application()
    screen.open_application(id_)
    screen.expect_health("Ready")

    screen.press("Delete from Cluster")
    screen.answer("Keep")
    expect(screen.dialog).to_have_count(0)
    screen.expect_delivery("Applied")

    screen.press("Delete from Cluster")
    expect(screen.dialog).to_contain_text("uninstalls")
    expect(screen.line("instance_ids", name, within=screen.dialog)).to_be_visible()
    screen.answer("Delete from Cluster")
    screen.expect_delivery("Deleted")
    screen.expect_no_reload()


# === WATCHING === #


def test_an_open_form_turns_degraded_and_ready_again(screen, make_application, behave):
    name, id_ = make_application()
    screen.open_application(id_)
    screen.expect_health("Ready")

    behave(name, "degrade")
    screen.expect_health("Degraded")
    expect(screen.field("health_message")).to_contain_text("replicas")

    behave(name, None)
    screen.expect_health("Ready")
    screen.expect_no_reload()


def test_an_open_list_turns_degraded_and_ready_again(screen, make_application, behave):
    name, _id = make_application()
    screen.open_applications()
    health = screen.row_health(name)
    expect(health).to_have_text("Ready")

    behave(name, "degrade")
    expect(health).to_have_text("Degraded")

    behave(name, None)
    expect(health).to_have_text("Ready")
    screen.expect_no_reload()


def test_an_open_kanban_moves_the_card_to_its_new_column(
    screen, make_application, behave
):
    name, _id = make_application()
    screen.open_applications("kanban")
    expect(screen.card(name, column="Ready")).to_be_visible()

    behave(name, "degrade")
    expect(screen.card(name, column="Degraded")).to_be_visible()
    expect(screen.card(name, column="Ready")).to_have_count(0)

    behave(name, None)
    expect(screen.card(name, column="Ready")).to_be_visible()
    screen.expect_no_reload()


def test_the_kanban_names_the_column_of_what_is_not_deployed(screen, make_application):
    name, _id = make_application(deployed=False)

    screen.open_applications("kanban")

    expect(screen.card(name, column="Not deployed")).to_be_visible()


def test_a_status_that_arrives_while_a_form_opens_is_not_missed(
    browse, screen, make_application, behave
):
    name, _id = make_application()
    watcher = browse("admin")
    watcher.open_applications()
    expect(watcher.row_health(name)).to_have_text("Ready")

    def change_before_the_answer_arrives(route):
        answer = route.fetch()
        behave(name, "degrade")
        expect(watcher.row_health(name)).to_have_text("Degraded")
        route.fulfill(response=answer)

    screen.open_applications()
    screen.page.route("**/web_read", change_before_the_answer_arrives, times=1)
    screen.row(name).locator("td[name=name]").click()

    screen.expect_health("Degraded")
    screen.expect_no_reload()


def test_typing_is_not_disturbed_by_a_status_that_arrives(
    browse, screen, make_application, behave
):
    name, id_ = make_application()
    screen.open_application(id_)
    screen.expect_health("Ready")
    watcher = browse("admin")
    watcher.open_applications()
    seen_elsewhere = watcher.row_health(name)

    version = screen.input("chart_version")
    version.fill("")
    version.press_sequentially("1.5")
    behave(name, "degrade")
    expect(seen_elsewhere).to_have_text("Degraded")
    version.press_sequentially(".0")

    expect(version).to_have_value("1.5.0")
    screen.expect_health("Ready")
    screen.save()
    screen.expect_health("Degraded")
    expect(version).to_have_value("1.5.0")


def test_writing_values_is_not_disturbed_by_a_status_that_arrives(
    browse, screen, make_application, behave
):
    name, id_ = make_application()
    screen.open_application(id_)
    screen.expect_health("Ready")
    watcher = browse("admin")
    watcher.open_applications()

    screen.write_code("values_yaml", "replicas: 2\n# until")
    behave(name, "degrade")
    expect(watcher.row_health(name)).to_have_text("Degraded")
    screen.page.keyboard.insert_text(" the summer")

    screen.expect_entered("values_yaml", "replicas: 2\n# until the summer")
    screen.expect_health("Ready")
    screen.save()
    screen.expect_health("Degraded")
    screen.expect_entered("values_yaml", "replicas: 2\n# until the summer")


def test_what_was_entered_stays_until_discarded(
    browse, screen, make_application, behave
):
    name, id_ = make_application()
    screen.open_application(id_)
    screen.expect_health("Ready")
    watcher = browse("admin")
    watcher.open_applications()

    screen.enter(chart_version="1.5.0")
    behave(name, "degrade")
    expect(watcher.row_health(name)).to_have_text("Degraded")

    expect(screen.input("chart_version")).to_have_value("1.5.0")
    screen.expect_health("Ready")
    screen.discard()
    screen.expect_health("Degraded")
    expect(screen.input("chart_version")).to_have_value("1.4.2")
    screen.expect_no_reload()


# === REFUSALS === #


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"chart_version": "^1.4.0"}, "does not name one version"),
        ({"values_yaml": "replicas: [1"}, "not valid YAML"),
    ],
    ids=["range", "yaml"],
)
def test_bad_input_is_named_kept_and_not_deployed(
    screen, place, namespace, values, sentence
):
    ((field, text),) = values.items()
    name = f"draft-{field.replace('_', '-')}"
    screen.open_new_application()
    screen.fill_in_application(name=name, namespace=namespace, **values)
    expect(screen.alerts).to_contain_text(sentence)

    screen.press("Deploy")
    expect(screen.dialog).to_contain_text(sentence)
    screen.dialog.get_by_role("button", name="Close").first.click()

    screen.expect_entered(field, text)
    screen.expect_delivery("Draft")


def test_a_draft_can_be_saved_as_it_is(screen, odoo, place, namespace):
    screen.open_new_application()
    screen.fill_in_application(
        name="unfinished", namespace=namespace, chart_version="latest"
    )

    screen.save()

    (saved,) = odoo.session().call(
        APPLICATION, "search_read", [("name", "=", "unfinished")], ["chart_version"]
    )
    assert saved["chart_version"] == "latest"
    screen.expect_delivery("Draft")


def test_conflict_shows_field_both_values_and_the_other_manager(
    screen, make_application, control_plane, namespace
):
    name, id_ = make_application()
    screen.open_application(id_)
    screen.expect_health("Ready")
    body = {"spec": {"chart": {"version": "6.0.0"}}}
    control_plane.kubectl(
        *("patch", "applicationinstance", name, "-n", namespace, "--type", "merge"),
        *("--field-manager", "rival", "-p", json.dumps(body)),
    )

    screen.enter(chart_version="1.5.0")
    screen.press("Deploy")

    screen.expect_delivery("Conflict")
    expect(screen.alerts).to_contain_text("Nothing was overwritten.")
    screen.tab("Conflicts")
    row = screen.field("conflict_ids").locator(".o_data_row")
    expect(row.locator("[name=field]")).to_have_text(".spec.chart.version")
    expect(row.locator("[name=our_value]")).to_have_text('"1.5.0"')
    expect(row.locator("[name=live_value]")).to_have_text('"6.0.0"')
    expect(row.locator("[name=manager]")).to_have_text("rival")
    expect(screen.input("chart_version")).to_have_value("1.5.0")


def test_refusal_by_admission_is_shown_in_the_operators_words(
    screen, odoo, cluster, control_plane
):
    control_plane.create_namespace("plain", gated=False)
    control_plane.grant(["plain"])
    odoo.create("vworkspace.cluster.namespace", cluster_id=cluster, name="plain")
    screen.open_new_application()
    screen.fill_in_application(name="stranger", namespace="plain")

    screen.press("Deploy")

    screen.expect_delivery("Denied")
    expect(screen.alerts).to_contain_text('namespace "plain" is not managed')
    expect(screen.input("name")).to_have_value("stranger")
