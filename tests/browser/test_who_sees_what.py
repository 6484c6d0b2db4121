"""The same screens for other people, and for a company that has nothing yet."""

import pytest
from playwright.sync_api import expect

BUTTONS = ("Deploy", "Deploy Again", "Deploy Now", "Delete from Cluster", "New")


def test_a_viewer_sees_everything_and_can_press_nothing(odoo, browse, make_application):
    name, id_ = make_application()
    odoo.new_user("viewer", group="group_viewer")
    screen = browse("viewer")

    screen.open_applications()
    expect(screen.row(name)).to_be_visible()
    screen.open_application(id_)

    screen.expect_health("Ready")
    for button in BUTTONS:
        found = screen.page.get_by_role("button", name=button, exact=True)
        expect(found).to_have_count(0)
    expect(screen.page.locator(".o_form_sheet input:enabled")).to_have_count(0)


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
