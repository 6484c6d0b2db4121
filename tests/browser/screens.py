"""What a person does on the addon's screens, in a person's words."""

from playwright.sync_api import expect

TIMEOUT = 15_000  # ms; nothing that a test waits for may take longer

CHART = {
    "catalog_id": "wiki",
    "chart_url": "oci://registry.example.com/charts",
    "chart_name": "wiki",
    "chart_version": "1.4.2",
}

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

    def open_operation(self, id_):
        self.page.goto(f"/odoo/vworkspace-operations/{id_}")
        expect(self.page.locator(".o_form_view")).to_be_visible()
        self._remember()

    def open_clusters(self):
        self.page.goto("/odoo/vworkspace-clusters")
        expect(self.page.locator(".o_list_view")).to_be_visible()
        self._remember()

    def open_cluster(self, id_):
        self.page.goto(f"/odoo/vworkspace-clusters/{id_}")
        expect(self.page.locator(".o_form_view")).to_be_visible()
        self._remember()

    def open_catalog(self):
        self.page.goto("/odoo/vworkspace-catalog")
        expect(self.page.locator(".o_kanban_view")).to_be_visible()
        self._remember()

    def tab(self, name):
        self.page.get_by_role("tab", name=name, exact=True).click()

    def _remember(self):
        """Leave a mark that a reload of the page would wipe away."""
        self.page.evaluate("window.stayed = true")

    def expect_no_reload(self):
        assert self.page.evaluate("window.stayed"), "the page was loaded anew"

    # === LIVE === #

    def note_updates(self, id_):
        """Count in `window.updates` what the page is told of an application."""
        self.page.evaluate(
            """(id) => {
                window.updates = 0;
                const {bus_service} = odoo.__WOWL_DEBUG__.root.env.services;
                bus_service.subscribe("vworkspace_push/updated", ({ids}) => {
                    window.updates += ids.includes(id) ? 1 : 0;
                });
            }""",
            id_,
        )

    def hide(self):
        """Have the page believe that another tab is in front of it."""
        self._set_hidden(True)

    def show(self):
        self._set_hidden(False)

    def _set_hidden(self, is_hidden):
        self.page.evaluate(
            """(isHidden) => {
                Object.defineProperty(document, "hidden", {
                    configurable: true,
                    get: () => isHidden,
                });
                document.dispatchEvent(new Event("visibilitychange"));
            }""",
            is_hidden,
        )

    # === DOING === #

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    def press(self, button):
        self.button(button).click()

    def on_top(self, name):
        """Return one of the buttons that lead from a form to what belongs to it."""
        return self.page.locator(".oe_stat_button", has_text=name)

    def answer(self, button):
        """Press a button of the dialog that is open."""
        self.dialog.get_by_role("button", name=button, exact=True).click()

    def choose_in_gear_menu(self, name):
        """Choose an entry of the gear menu of a form."""
        self.gear.click()
        self.page.get_by_role("menuitem", name=name, exact=True).click()

    @property
    def gear(self):
        return self.page.locator(".o_cp_action_menus button.dropdown-toggle")

    def new(self):
        self.press("New")
        expect(self.page.locator(".o_form_view")).to_be_visible()

    def input(self, field):
        return self.field(field).locator("input, textarea")

    def enter(self, **values):
        """Type into fields in place of what is there, and leave each."""
        for field, value in values.items():
            if self._is_code(field):
                self.write_code(field, value)
            else:
                self.input(field).fill(value)
            self.input(field).blur()

    def write_code(self, field, text):
        """Type into a code editor in place of what is there, and stay in it."""
        self.input(field).focus()
        self.page.keyboard.press("ControlOrMeta+A")
        self.page.keyboard.insert_text(text)

    def _is_code(self, field):
        """Tell whether a field is edited in the code editor."""
        return "o_field_code" in self.field(field).get_attribute("class")

    def fill_in_application(self, *, name, namespace, **chart):
        """Fill a new application's form in, from top to bottom."""
        self.enter(name=name)
        self.choose("cluster_id", "Production")
        self.choose("namespace_id", namespace)
        self.enter(**{**CHART, **chart})

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

    def expect_entered(self, field, text):
        """Wait until an input or a code editor holds a text."""
        if self._is_code(field):
            lines = self.field(field).locator(".ace_text-layer .ace_line")
            expect(lines).to_have_text(text.split("\n"))
        else:
            expect(self.input(field)).to_have_value(text)

    @property
    def dialog(self):
        return self.page.get_by_role("dialog")

    def diff(self, field, *, within=None):
        """Return the lines of a list of changes."""
        place = within or self.page.locator(".o_form_view")
        return place.locator(f"[name={field}] .o_vworkspace_diff_line")

    def line(self, field, text, *, within=None):
        """Return the line with a cell of that text in a list inside a form."""
        place = within or self.page.locator(".o_form_view")
        cell = self.page.get_by_role("cell", name=text, exact=True)
        return place.locator(f"[name={field}] .o_data_row", has=cell)

    def owned(self, field):
        """Return the line of a field in the Ownership tab."""
        heading = self.page.get_by_role("rowheader", name=field)
        return self.page.locator(".o_vworkspace_ownership tr", has=heading)

    def owners(self, field):
        return self.owned(field).locator("td").last.locator(".badge")

    def badge(self, text):
        """Return one of the badges below the title of a form."""
        return self.page.locator(".oe_title .badge:visible", has_text=text)

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
