"""What a person does on the addon's screens, in a person's words."""

from playwright.sync_api import expect

TIMEOUT = 15_000  # ms; nothing that a test waits for may take longer

expect.set_options(timeout=TIMEOUT)


class Screens:
    """One browser window."""

    def __init__(self, page):
        self.page = page
        page.set_default_timeout(TIMEOUT)

    # === WHERE === #

    def open_applications(self, view="list"):
        self.page.goto("/odoo/vworkspace-applications")
        expect(self.page.locator(".o_list_view")).to_be_visible()
        if view == "kanban":
            self.page.locator("button.o_switch_view.o_kanban").click()
            expect(self.page.locator(".o_kanban_view")).to_be_visible()
        self._remember()

    def open_application(self, id_):
        self.page.goto(f"/odoo/vworkspace-applications/{id_}")
        expect(self.page.locator(".o_form_view")).to_be_visible()
        self._remember()

    def open_new_application(self):
        self.page.goto("/odoo/vworkspace-applications/new")
        expect(self.page.locator(".o_form_view")).to_be_visible()
        self._remember()

    def open_clusters(self):
        self.page.goto("/odoo/vworkspace-clusters")
        expect(self.page.locator(".o_list_view")).to_be_visible()
        self._remember()

    def tab(self, name):
        self.page.get_by_role("tab", name=name).click()

    def _remember(self):
        """Leave a mark that a reload of the page would wipe away."""
        self.page.evaluate("window.stayed = true")

    def expect_no_reload(self):
        assert self.page.evaluate("window.stayed"), "the page was loaded anew"

    # === DOING === #

    def press(self, button):
        self.page.get_by_role("button", name=button, exact=True).click()

    def new(self):
        self.press("New")
        expect(self.page.locator(".o_form_view")).to_be_visible()

    def input(self, field):
        return self.field(field).locator("input, textarea")

    def enter(self, **values):
        """Type into fields, and leave each."""
        for field, value in values.items():
            self.input(field).fill(value)
            self.input(field).blur()

    def drop(self, field, text):
        """Drop a text file onto a field."""
        transfer = self.page.evaluate_handle(
            """(text) => {
                const transfer = new DataTransfer();
                transfer.items.add(new File([text], "config", {type: "text/plain"}));
                return transfer;
            }""",
            text,
        )
        self.input(field).dispatch_event("drop", {"dataTransfer": transfer})
        expect(self.input(field)).to_have_value(text)

    def choose(self, field, name):
        """Pick a record in a field that refers to one."""
        self.input(field).fill(name)
        option = self.page.get_by_role("option", name=name, exact=True)
        option.click()

    def save(self):
        self.press("Save manually")
        expect(self.page.locator(".o_form_saved, .o_form_readonly")).to_be_visible()

    def discard(self):
        self.press("Discard all changes")

    # === SEEING === #

    def field(self, name):
        return self.page.locator(f".o_form_view .o_field_widget[name={name}]").first

    @property
    def dialog(self):
        return self.page.get_by_role("dialog")

    @property
    def alerts(self):
        return self.page.locator(".o_form_view .alert:visible")

    def row(self, name):
        """Return the line of an application in the list."""
        cell = self.page.get_by_role("cell", name=name, exact=True)
        return self.page.locator(".o_data_row", has=cell)

    def row_health(self, name):
        return self.row(name).locator("td[name=health]")

    def card(self, name, *, column):
        """Return the card of an application in one column of the kanban."""
        heading = self.page.locator(".o_column_title", has_text=column)
        group = self.page.locator(".o_kanban_group", has=heading)
        title = self.page.get_by_text(name, exact=True)
        return group.locator(".o_kanban_record", has=title)

    def expect_delivery(self, state):
        """Wait until the form's status bar is at a delivery state."""
        self._expect_in_status_bar("delivery_state", state)

    def expect_state(self, state):
        """Wait until the status bar of a cluster's form is at a state."""
        self._expect_in_status_bar("state", state)

    def _expect_in_status_bar(self, field, state):
        current = self.field(field).locator("[aria-checked=true]")
        expect(current).to_have_text(state)

    def expect_health(self, health):
        expect(self.field("health")).to_have_text(health)
