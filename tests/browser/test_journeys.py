"""What an operator does with an application in the course of its life, each from one
end to the other; kubectl is the rival who writes to the same object.
"""

import re

import pytest
from playwright.sync_api import expect

from tests.deliveries import RIVAL, patch, set_version
from tests.live_objects import create_object, get_object, list_objects

CATALOG_ENTRY = "vworkspace.catalog.entry"
CLUSTER = "vworkspace.cluster"

VERSION = ".spec.chart.version"
REPLICAS = ".spec.values.inline.replicas"
TAG = ".spec.values.inline.image.tag"

COMMENTED = """\
# Agreed with the team
replicas: 1  # enough for a wiki
image:
  tag: v1  # the last that works
"""


def decide(screen, field, decision, reason):
    """Decide about one field in the dialog, and say why."""
    line = screen.line("line_ids", field, within=screen.dialog)
    line.locator("[name=decision]").first.click()
    badges = line.locator("[name=decision] .o_selection_badge")
    badges.filter(has_text=decision).click()
    line.locator("[name=reason] input").fill(reason)
    line.locator("[name=reason] input").press("Tab")


# === THE CATALOG === #


def test_an_entry_of_the_catalog_is_previewed_and_deployed(
    browse, odoo, place, namespace
):
    odoo.create(
        CATALOG_ENTRY,
        name="Company Wiki",
        catalog_id="company-wiki",
        chart_url="oci://registry.example.com/charts",
        chart_name="wiki",
        chart_version="2.0.1",
        values_yaml=COMMENTED,
        capability_ids=[(0, 0, {"capability": "backup", "engine": "velero"})],
    )
    screen = browse("demo")
    screen.open_catalog()
    card = screen.page.locator(".o_kanban_record", has_text="Company Wiki")

    card.get_by_role("button", name="Deploy New").click()
    screen.expect_entered("catalog_id", "company-wiki")
    screen.expect_entered("chart_name", "wiki")
    screen.expect_entered("chart_version", "2.0.1")
    screen.expect_entered("values_yaml", COMMENTED)
    screen.tab("Options")
    expect(screen.field("capability_ids")).to_contain_text("velero")
    screen.enter(name="handbook")
    screen.choose("cluster_id", "Production")
    screen.choose("namespace_id", namespace)

    screen.press("Preview")
    expect(screen.dialog).to_contain_text("It would be created")
    changes = screen.diff("changes", within=screen.dialog)
    expect(changes.filter(has_text=f'+ {VERSION}: "2.0.1"')).to_be_visible()
    screen.expect_delivery("Draft")
    screen.answer("Deploy")

    screen.expect_delivery("Applied")
    screen.expect_health("Ready")
    screen.expect_no_reload()


# === OTHERS WRITE AS WELL === #


def test_a_conflict_is_decided_field_by_field(
    browse, make_application, control_plane, namespace
):
    name, id_ = make_application(values_yaml=COMMENTED)
    screen = browse("demo")
    screen.open_application(id_)
    screen.expect_health("Ready")
    theirs = {"inline": {"replicas": 5, "image": {"tag": "v9"}}}
    patch(control_plane, namespace, {"spec": {"values": theirs}}, name=name)

    screen.enter(chart_version="1.5.0")
    screen.press("Deploy")
    screen.expect_delivery("Conflict")
    screen.press("Decide")
    decide(screen, TAG, "Take over", "v9 breaks the search.")
    decide(screen, REPLICAS, "Accept", "They watch the load.")
    expect(screen.diff("form_effect", within=screen.dialog)).to_have_text(
        [f"~ {REPLICAS}: 1 → 5"]
    )
    expect(screen.diff("effect", within=screen.dialog)).to_have_text(
        [f'~ {VERSION}: "1.4.2" → "1.5.0"', f'~ {TAG}: "v9" → "v1"']
    )
    screen.answer("Carry Out")

    screen.expect_delivery("Applied")
    expect(screen.page.get_by_role("tab", name="Conflicts")).to_be_hidden()
    screen.expect_entered(
        "values_yaml", COMMENTED.replace("replicas: 1", "replicas: 5")
    )
    live = get_object(control_plane, namespace, name)["spec"]
    assert live["chart"]["version"] == "1.5.0"
    assert live["values"]["inline"] == {"replicas": 5, "image": {"tag": "v1"}}
    screen.expect_no_reload()


def test_drift_is_seen_as_it_happens_and_taken_back(
    browse, make_application, control_plane, namespace
):
    name, id_ = make_application()
    screen = browse("demo")
    screen.open_application(id_)
    screen.expect_health("Ready")
    screen.tab("Drift")
    expect(screen.page.get_by_text("Nothing that Odoo applied")).to_be_visible()

    set_version(control_plane, namespace, "6.0.0", name=name)

    expect(screen.badge("Drifted")).to_be_visible()
    drifted = screen.line("drift_ids", VERSION)
    expect(drifted.locator("[name=our_value]")).to_have_text('"1.4.2"')
    expect(drifted.locator("[name=live_value]")).to_have_text('"6.0.0"')
    expect(drifted.locator("[name=manager]")).to_have_text(RIVAL)
    screen.tab("Ownership")
    expect(screen.owners(VERSION)).to_have_text([re.compile(f"^{RIVAL}")])
    expect(screen.owners(".spec.chart.name")).to_have_text(
        [re.compile("^vworkspace-odoo")]
    )
    screen.page.get_by_role("button", name=re.compile("^Others")).click()
    expect(screen.owned(VERSION)).to_be_visible()
    expect(screen.owned(".spec.chart.name")).to_have_count(0)

    screen.tab("Drift")
    screen.press("Take Back")
    screen.answer("Ok")

    expect(screen.badge("Drifted")).to_have_count(0)
    screen.expect_delivery("Applied")
    live = get_object(control_plane, namespace, name)
    assert live["spec"]["chart"]["version"] == "1.4.2"
    screen.expect_no_reload()


# === BACK AND FORTH === #


def test_a_change_is_shown_deployed_and_rolled_back(
    browse, make_application, control_plane, namespace
):
    name, id_ = make_application(values_yaml=COMMENTED)
    screen = browse("demo")
    screen.open_application(id_)
    screen.expect_health("Ready")

    screen.enter(chart_version="1.5.0", values_yaml="replicas: 2\n")
    screen.tab("Changes")
    expect(screen.diff("changes_text")).to_have_text(
        [
            f'~ {VERSION}: "1.4.2" → "1.5.0"',
            f"~ {REPLICAS}: 1 → 2",
            f'- {TAG}: "v1"',
        ]
    )
    screen.press("Deploy")
    screen.expect_delivery("Applied")
    expect(screen.page.get_by_role("tab", name="Changes")).to_be_hidden()
    screen.tab("Revisions")
    expect(screen.line("revision_ids", "2")).to_contain_text("Applied")
    first = screen.line("revision_ids", "1")
    first.get_by_role("button", name="Roll Back").click()
    screen.answer("Ok")

    expect(screen.line("revision_ids", "3")).to_contain_text("Back to revision 1.")
    screen.expect_entered("chart_version", "1.4.2")
    screen.tab("Values")
    screen.expect_entered("values_yaml", COMMENTED)
    screen.expect_delivery("Applied")
    live = get_object(control_plane, namespace, name)["spec"]
    assert live["chart"]["version"] == "1.4.2"
    assert live["values"]["inline"] == {"replicas": 1, "image": {"tag": "v1"}}
    screen.expect_no_reload()


def test_what_is_paused_waits_in_sight_and_goes_out_when_resumed(
    browse, make_application, control_plane, namespace
):
    name, id_ = make_application()
    screen = browse("demo")
    screen.open_application(id_)
    screen.expect_health("Ready")

    screen.choose_in_gear_menu("Pause Deliveries")
    expect(screen.badge("Paused")).to_be_visible()
    screen.enter(chart_version="1.5.0")
    screen.press("Deploy")
    screen.expect_delivery("Pending")
    expect(screen.alerts).to_contain_text("Somebody to resume it")
    live = get_object(control_plane, namespace, name)
    assert live["spec"]["chart"]["version"] == "1.4.2"

    screen.press("Resume")
    screen.expect_delivery("Applied")
    expect(screen.badge("Paused")).to_have_count(0)
    live = get_object(control_plane, namespace, name)
    assert live["spec"]["chart"]["version"] == "1.5.0"
    screen.expect_no_reload()


def test_what_waits_for_its_first_delivery_is_withdrawn(
    browse, make_application, control_plane, namespace
):
    name, id_ = make_application(deployed=False)
    screen = browse("demo")
    screen.open_application(id_)
    screen.choose_in_gear_menu("Pause Deliveries")
    expect(screen.badge("Paused")).to_be_visible()
    screen.press("Deploy")
    screen.expect_delivery("Pending")

    screen.press("Withdraw")
    screen.expect_delivery("Draft")
    screen.press("Resume")
    expect(screen.badge("Paused")).to_have_count(0)

    screen.expect_delivery("Draft")
    names = [obj["metadata"]["name"] for obj in list_objects(control_plane, namespace)]
    assert name not in names
    screen.expect_no_reload()


@pytest.fixture
def production(odoo, cluster):
    """The cluster, marked as one where deleting asks for the name."""
    odoo.session().call(CLUSTER, "write", [cluster], {"is_production": True})
    yield
    odoo.session().call(CLUSTER, "write", [cluster], {"is_production": False})


def test_deleting_from_production_asks_for_the_name(
    browse, production, make_application
):
    name, id_ = make_application()
    screen = browse("demo")
    screen.open_application(id_)
    screen.expect_health("Ready")

    screen.press("Delete from Cluster")
    expect(screen.dialog).to_contain_text("Production is a production cluster.")
    typed = screen.dialog.locator("[name=typed_name] input")
    typed.fill(f"{name}-2")
    screen.answer("Delete from Cluster")
    refusal = screen.page.get_by_role("dialog").filter(has_text=f"type the name {name}")
    refusal.get_by_role("button", name="Close").first.click()
    expect(refusal).to_have_count(0)
    typed.fill(name)
    screen.answer("Delete from Cluster")

    screen.expect_delivery("Deleted")


def test_an_operation_waits_while_it_is_paused_and_is_deleted_by_its_name(
    browse, odoo, production, make_application
):
    capability = {"capability": "backup", "engine": "velero"}
    application, id_ = make_application(capability_ids=[(0, 0, capability)])
    name = f"backup-{application}"
    values = {"name": name, "target_id": id_, "type": "Backup", "engine": "velero"}
    operation = odoo.create("vworkspace.operation", **values)
    screen = browse("demo")
    screen.open_operation(operation)

    screen.choose_in_gear_menu("Pause Deliveries")
    expect(screen.badge("Paused")).to_be_visible()
    screen.press("Start")
    screen.expect_delivery("Pending")
    expect(screen.alerts).to_contain_text("Somebody to resume it")
    screen.press("Resume")
    screen.expect_delivery("Applied")
    screen.press("Delete from Cluster")
    expect(screen.line("operation_ids", name, within=screen.dialog)).to_be_visible()
    screen.dialog.locator("[name=typed_name] input").fill(name)
    screen.answer("Delete from Cluster")

    screen.expect_delivery("Deleted")
    screen.expect_no_reload()


# === WHAT IS THERE ALREADY === #


def test_what_kubectl_made_is_imported_and_then_deployed(
    browse, cluster, place, control_plane, namespace
):
    create_object(control_plane, namespace, "inherited")
    screen = browse("demo")
    screen.open_cluster(cluster)

    screen.on_top("Import…").click()
    found = screen.line("line_ids", namespace, within=screen.dialog)
    expect(found.locator("[name=name]")).to_have_text("inherited")
    expect(found.locator("[name=version]")).to_have_text("1.4.2")
    ticked = found.get_by_role("checkbox")
    screen.answer("Tick None")
    expect(ticked).not_to_be_checked()
    found.locator("td[name=selected]").click()
    ticked.check()
    screen.answer("Import")

    screen.expect_entered("chart_version", "1.4.2")
    screen.expect_delivery("Draft")
    screen.expect_health("Ready")
    screen.press("Deploy")
    screen.expect_delivery("Applied")
    expect(screen.field("name")).to_have_text("inherited")
    live = get_object(control_plane, namespace, "inherited")
    assert any(
        e["manager"] == "vworkspace-odoo" for e in live["metadata"]["managedFields"]
    )


def test_a_name_that_is_taken_offers_to_import_what_has_it(
    browse, place, control_plane, namespace
):
    taken = create_object(control_plane, namespace, "taken")
    screen = browse("demo")
    screen.open_new_application()
    screen.fill_in_application(name="taken", namespace=namespace)

    screen.press("Deploy")
    screen.expect_delivery("Denied")
    expect(screen.alerts).to_contain_text("an object of this name exists already")
    screen.press("Import It")
    expect(screen.line("line_ids", "taken", within=screen.dialog)).to_be_visible()
    screen.answer("Import")
    screen.expect_delivery("Draft")
    screen.press("Deploy")

    screen.expect_delivery("Applied")
    live = get_object(control_plane, namespace, "taken")
    assert live["metadata"]["uid"] == taken["metadata"]["uid"]


# === WHAT WAS DONE === #


def test_the_audit_trail_of_an_application_says_who_changed_what(
    browse, make_application
):
    name, id_ = make_application()
    screen = browse("demo")
    screen.open_application(id_)
    screen.expect_health("Ready")
    screen.enter(chart_version="1.5.0")
    screen.press("Deploy")
    expect(screen.field("health_message")).to_contain_text("1.5.0")

    screen.on_top("Audit Trail").click()
    entries = screen.page.locator(".o_list_view .o_data_row")
    expect(entries.locator("td[name=action]")).to_have_text(["Deploy", "Deploy"])
    expect(entries.locator("td[name=outcome]")).to_have_text(["Applied", "Applied"])
    expect(entries.locator("td[name=revision]")).to_have_text(["2", "1"])
    entries.first.locator("td[name=action]").click()

    expect(screen.field("user_id")).to_contain_text("Demo")
    expect(screen.field("res_name")).to_have_text(name)
    expect(screen.diff("diff")).to_have_text([f'~ {VERSION}: "1.4.2" → "1.5.0"'])
