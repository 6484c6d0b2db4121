"""The same screens for other people, and for a company that has nothing yet."""

import pytest
from playwright.sync_api import expect

from tests.deliveries import INSTANCE, set_version

CATALOG_ENTRY = "vworkspace.catalog.entry"

ON_APPLICATION = ("New", "Preview", "Send Again", "Delete from Cluster")
ON_CLUSTER = ("New", "Verify Again", "Test Connection", "Pause Deliveries", "Revoke")
IN_GEAR_MENU = ("Pause Deliveries", "Deploy a Copy To…", "Adopt Ownership…")


# === WHO MAY PRESS WHAT === #


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
def test_a_role_sees_everything_and_is_offered_what_it_may_do(
    odoo, browse, role, cluster, drifted, offer
):
    login = f"the-{role}"
    odoo.new_user(login, group=f"group_{role}")
    screen = browse(login)
    deploys, configures = role != "viewer", role == "admin"

    screen.open_application(drifted)
    expect(screen.badge("Drifted")).to_be_visible()
    expect_buttons(screen, *ON_APPLICATION, offered=deploys)
    inputs = screen.page.locator(".o_form_sheet input:enabled")
    expect(inputs).not_to_have_count(0) if deploys else expect(inputs).to_have_count(0)
    screen.tab("Drift")
    expect_buttons(screen, "Take Back", offered=deploys)
    screen.tab("Revisions")
    expect(screen.line("revision_ids", "2")).to_be_visible()
    expect_buttons(screen, "Roll Back", offered=deploys)
    expect(screen.gear).to_have_count(1 if deploys else 0)
    if deploys:
        screen.gear.click()
    expect_offered(screen, "menuitem", *IN_GEAR_MENU, offered=deploys)
    expect_offered(screen, "menuitem", "Forget…", offered=configures)

    screen.open_catalog()
    card = screen.page.locator(".o_kanban_record", has_text=offer)
    expect(card.get_by_role("button")).to_have_text(["Deploy New"] * deploys)
    expect_buttons(screen, "New", offered=configures)

    screen.open_cluster(cluster)
    screen.expect_state("Active")
    expect_buttons(screen, *ON_CLUSTER, offered=configures)
    expect(screen.on_top("Import…")).to_have_count(1 if deploys else 0)
    menus = screen.page.locator(".o_menu_sections")
    expect(menus).to_contain_text("Reporting")
    expect(menus.get_by_text("Configuration")).to_have_count(1 if configures else 0)


def expect_buttons(screen, *names, offered):
    expect_offered(screen, "button", *names, offered=offered)


def expect_offered(screen, kind, *names, offered):
    for name in names:
        found = screen.page.get_by_role(kind, name=name, exact=True)
        expect(found).to_have_count(1 if offered else 0)


@pytest.fixture
def drifted(odoo, make_application, control_plane, namespace):
    """The id of an application that was deployed twice, and overwritten since."""
    name, id_ = make_application()
    call = odoo.session().call
    call(INSTANCE, "write", [id_], {"chart_version": "1.5.0"})
    call(INSTANCE, "action_deploy", [id_])
    set_version(control_plane, namespace, "6.0.0", name=name)
    return id_


@pytest.fixture
def offer(odoo):
    """The name of an entry of the catalog."""
    name = "Offered to all"
    id_ = odoo.create(CATALOG_ENTRY, name=name, catalog_id="offered")
    yield name
    odoo.session().call(CATALOG_ENTRY, "unlink", [id_])


def test_a_user_without_a_group_has_no_menu(odoo, browse):
    odoo.new_user("outsider")
    screen = browse("outsider")

    screen.page.goto("/odoo")
    screen.page.locator(".o_navbar_apps_menu button").click()

    apps = screen.page.locator(".o_app")
    expect(apps.filter(has_text="Discuss")).to_be_visible()
    expect(apps.filter(has_text="vWorkspace")).to_have_count(0)


@pytest.fixture(scope="module")
def newcomer(odoo, cluster):
    """The login of an admin of a company that has nothing yet."""
    company = odoo.create("res.company", name="Newcomers")
    odoo.new_user(
        "newcomer",
        group="group_admin",
        company_id=company,
        company_ids=[(6, 0, [company])],
    )
    return "newcomer"


def test_without_applications_the_list_says_how_to_begin(browse, newcomer):
    screen = browse(newcomer)

    screen.open_applications()

    expect(screen.page.get_by_text("Deploy your first application")).to_be_visible()


def test_without_clusters_the_list_says_what_is_needed(browse, newcomer):
    screen = browse(newcomer)

    screen.open_clusters()

    expect(screen.page.get_by_text("Register your first cluster")).to_be_visible()
