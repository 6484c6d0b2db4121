"""Screenshots for the documentation, taken from the running demo.

The first two show what the README's first task promises: the demo's application turns
Ready, and degraded when the simulated operator is told so, in a form that stays open
and is never reloaded. The others tell the story of an application of their own, and of
one that Pull mode left behind; somebody with kubectl is the rival. What the story
makes, it takes away again, so that it can be told any number of times.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, sync_playwright

from . import demo
from .browser import chromium, flags
from .control_plane import ControlPlane
from .paths import CHECKOUT
from .processes import wait_until
from .progress import Failure, say
from .rpc import Rpc
from .run import DATABASE
from .simulated_operator import SimulatedOperator

FOLDER = CHECKOUT / "docs" / "images"
SIZE = {"width": 1280, "height": 1600}  # a whole form, which is then cut to its end
TIMEOUT = 30_000  # ms

CLUSTER = "vworkspace.cluster"
INSTANCE = "vworkspace.application.instance"
CATALOG_ENTRY = "vworkspace.catalog.entry"

APPLICATION = "team-wiki"
LEGACY = ("intranet", "web-shop")  # what Pull mode left in the cluster
AGENT = "vworkspace-agent"  # Pull mode's field manager
RIVAL = "kubectl-edit"  # the one of `kubectl edit`

VALUES = """\
# As agreed with the wiki's team
replicaCount: {replicas}
ui:
  title: {title}
limits:
  memory: {memory}
"""
ENTRY = {
    "name": "Team Wiki",
    "catalog_id": "team-wiki",
    "description": "A wiki for one team, with a page of its own for each project.",
    "chart_source_type": "oci",
    "chart_url": "oci://registry.example.com/charts",
    "chart_name": "wiki",
    "chart_version": "2.3.1",
    "values_yaml": VALUES.format(replicas=1, title="Team Wiki", memory="256Mi"),
    "capability_ids": [(0, 0, {"capability": "backup", "engine": "velero"})],
}


def take(operator: SimulatedOperator, *, url: str) -> int:
    """Take all screenshots; return the exit code.

    :param url: of the running demo
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(chromium()), args=flags()
        )
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(TIMEOUT)
        window = Window(page, url)
        window.log_in()
        _show_status(window, operator)
        odoo = Rpc(url, DATABASE, login=demo.LOGIN, password=demo.PASSWORD)
        Story(window, odoo, operator.control_plane).tell()
        browser.close()
    return 0


class Window:
    """The browser's window, in words of what a person does there."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self._url = url

    def log_in(self) -> None:
        try:
            self.page.goto(f"{self._url}/web/login")
        except Exception as exc:
            raise Failure(
                f"No demo answers at {self._url}; start it with `make run`."
            ) from exc
        self.page.fill("input[name=login]", demo.LOGIN)
        self.page.fill("input[name=password]", demo.PASSWORD)
        self.page.click("button[type=submit]")
        self.page.wait_for_url("**/odoo**")

    def open(self, place: str, *, view: str = "form") -> None:
        """Open a page of the web client, such as `vworkspace-applications/1`."""
        self.page.goto(f"{self._url}/odoo/{place}")
        self.page.locator(f".o_{view}_view").wait_for()

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def press(self, button: str) -> None:
        self.page.get_by_role("button", name=button, exact=True).first.click()

    def press_smart_button(self, action: str) -> None:
        self.page.locator(f".oe_stat_button[name={action}]").click()

    def choose_action(self, name: str) -> None:
        """Choose from the form's menu of actions."""
        self.page.locator(".o_cp_action_menus button").first.click()
        self.page.get_by_role("menuitem", name=name).click()

    def enter(self, field: str, text: str) -> None:
        self._input(field).fill(text)
        self._input(field).blur()

    def choose(self, field: str, name: str) -> None:
        """Pick a record in a field that refers to one."""
        self._input(field).fill(name)
        self.page.get_by_role("option", name=name, exact=True).click()

    def _input(self, field: str) -> Locator:
        return self.page.locator(f".o_field_widget[name={field}] input").first

    @property
    def dialog(self) -> Locator:
        return self.page.locator(".modal-content").last

    def close_dialog(self, button: str = "Close") -> None:
        self.dialog.get_by_role("button", name=button, exact=True).last.click()
        self.dialog.wait_for(state="hidden")

    def wait_for(self, field: str, text: str) -> None:
        """Wait until the open form shows `text` in a field."""
        shown = f".o_form_view [name={field}]"
        self.page.locator(shown, has_text=text).first.wait_for(state="visible")

    def wait_for_delivery(self, state: str) -> None:
        current = ".o_form_view [name=delivery_state] [aria-checked=true]"
        self.page.locator(current, has_text=state).first.wait_for(state="visible")

    # === PICTURES === #

    def shoot_down_to(self, name: str, last: str) -> None:
        """Keep what the window shows, down to the end of an element."""
        end = self.page.locator(last).first
        end.wait_for(state="visible")
        self._wait_until_settled()
        box = end.bounding_box()
        if box is None:
            raise Failure(f"{last} is not on the page of {name}.")
        height = min(box["y"] + box["height"], SIZE["height"])
        clip = {"x": 0, "y": 0, "width": SIZE["width"], "height": height}
        self.page.screenshot(path=_file(name), animations="disabled", clip=clip)

    def shoot_form(self, name: str) -> None:
        """Keep the open form, without the messages below it."""
        self.shoot_down_to(name, ".o_form_sheet_bg")

    def shoot_dialog(self, name: str) -> None:
        """Keep the open dialog."""
        self._wait_until_settled()
        self.dialog.screenshot(path=_file(name), animations="disabled")

    def _wait_until_settled(self) -> None:
        """Wait for answers and fonts, and let nothing hover."""
        self.page.mouse.move(0, 0)
        self.page.evaluate("document.fonts.ready")
        for passing in (".o_loading_indicator", ".o_notification", "[aria-busy=true]"):
            self.page.locator(passing).first.wait_for(state="hidden")


def _file(name: str) -> Path:
    path = FOLDER / f"{name}.png"
    say(f"Writing {path.relative_to(CHECKOUT)}")
    return path


def _show_status(window: Window, operator: SimulatedOperator) -> None:
    instance = f"{demo.GATED_NAMESPACES[0]}/{demo.INSTANCE}"
    window.open("vworkspace-applications", view="list")
    window.page.locator(".o_data_row", has_text=demo.INSTANCE).first.click()
    window.tab("Conditions")
    window.wait_for("health", "Ready")
    window.shoot_form("application-ready")
    try:
        operator.control(instances={instance: "degrade"})
        window.wait_for("health", "Degraded")
        window.shoot_form("application-degraded")
        window.tab("Timeline")
        window.page.locator(".o_vworkspace_timeline tbody tr").first.wait_for()
        window.shoot_form("timeline")
        window.open("vworkspace-overview", view="kanban")
        window.page.get_by_role("button", name="Degraded").first.wait_for()
        window.shoot_down_to("overview", ".o_kanban_record")
    finally:
        operator.control(instances={})
    window.page.get_by_role("button", name="Ready").first.wait_for()
    window.page.locator(".o_kanban_record", has_text="Demo").first.click()
    window.tab("Status")
    window.page.locator("[name=stream_ids] .o_data_row").first.wait_for()
    window.shoot_form("cluster-status")


class Story:
    """An application from the catalog to its end, and those that Pull mode left."""

    def __init__(self, window: Window, odoo: Rpc, control_plane: ControlPlane) -> None:
        self.window = window
        self.odoo = odoo
        self.control_plane = control_plane
        self.namespace, self.legacy_namespace = demo.GATED_NAMESPACES
        known = [("cluster_id", "=", demo.CLUSTER_ID)]
        self.cluster = odoo.call(CLUSTER, "search", known)[0]

    def tell(self) -> None:
        self._clear()
        try:
            application = self._deploy_from_the_catalog()
            self._preview_a_change(application)
            self._go_back_to_a_revision(application)
            self._drift(application)
            self._decide_conflicts(application)
            self._look_at_ownership_and_audit(application)
            self._import_and_adopt()
            self._delete_in_production(application)
        finally:
            self._clear()

    # === SCENES === #

    def _deploy_from_the_catalog(self) -> int:
        window = self.window
        entry = self.odoo.call(CATALOG_ENTRY, "create", [ENTRY])[0]
        window.open(f"vworkspace-catalog/{entry}")
        window.tab("Values")
        window.shoot_form("catalog-entry")
        window.press("Deploy New")
        window.page.locator(".o_form_view [name=cluster_id]").wait_for()
        window.enter("name", APPLICATION)
        window.choose("cluster_id", "Demo")
        window.choose("namespace_id", self.namespace)
        window.shoot_form("deploy")
        window.press("Deploy")
        window.wait_for_delivery("Applied")
        window.wait_for("health", "Ready")
        return self._find(APPLICATION)

    def _preview_a_change(self, application: int) -> None:
        self._write(application, chart_version="2.4.0", replicas=2)
        self._open(application)
        self.window.press("Preview")
        self.window.shoot_dialog("preview")
        self.window.dialog.get_by_role("button", name="Deploy", exact=True).click()
        self.window.wait_for_delivery("Applied")

    def _go_back_to_a_revision(self, application: int) -> None:
        self._write(application, chart_version="2.5.0", replicas=2)
        self._deploy(application)
        self._open(application)
        self.window.tab("Revisions")
        number = self.window.page.locator("td[name=number]").get_by_text(
            "2", exact=True
        )
        second = self.window.page.locator(".o_data_row", has=number)
        second.get_by_role("button", name="Roll Back").click()
        self.window.page.get_by_role("button", name="Ok").click()
        self._wait_for(application, "chart_version", "2.4.0")
        self._wait_for(application, "delivery_state", "applied")
        self._open(application)
        self.window.tab("Revisions")
        self.window.shoot_form("revisions")

    def _drift(self, application: int) -> None:
        self._patch_as_rival(replicas=5, title="Wiki (read only)", memory="512Mi")
        self._wait_for(application, "is_drifted", True)
        self._open(application)
        self.window.tab("Drift")
        self.window.shoot_form("drift")

    def _decide_conflicts(self, application: int) -> None:
        self._write(application, replicas=3, title="Team Wiki II", memory="384Mi")
        self._deploy(application, ends="conflict")
        self._open(application)
        self.window.tab("Conflicts")
        self.window.shoot_form("conflict")
        self.window.press("Decide")
        self._decide(".ui.title", "Take over", "Its name was agreed on.")
        self._decide(".memory", "Accept", "It needs as much.")
        self._decide(".replicaCount", "Leave", "They scale it by the load.")
        self.window.dialog.get_by_role("heading").first.click()  # leaves the last line
        self.window.shoot_dialog("conflict-decision")
        self.window.press("Carry Out")
        self._wait_for(application, "delivery_state", "applied")

    def _decide(self, field: str, decision: str, reason: str) -> None:
        line = self.window.dialog.locator(".o_data_row", has_text=field)
        line.locator("td[name=decision]").click()
        badges = line.locator("td[name=decision] .o_selection_badge")
        badges.filter(has_text=decision).click()
        line.locator("td[name=reason]").click()
        line.locator("td[name=reason] input").fill(reason)
        line.locator("td[name=reason] input").blur()

    def _look_at_ownership_and_audit(self, application: int) -> None:
        window = self.window
        self._open(application)
        window.tab("Ownership")
        window.page.locator(".o_vworkspace_ownership_search").fill(".values")
        window.shoot_form("ownership")
        window.press_smart_button("action_open_audit")
        window.page.locator(".o_list_view .o_data_row").first.wait_for()
        window.shoot_down_to("audit", ".o_list_table")
        window.page.locator(".o_data_row", has_text="Deploy").first.click()
        window.page.locator(".o_form_view").wait_for()
        window.shoot_form("audit-entry")

    def _import_and_adopt(self) -> None:
        window = self.window
        for name in LEGACY:
            self._apply_as_agent(name)
        window.open(f"vworkspace-clusters/{self.cluster}")
        window.press_smart_button("action_open_import")
        window.shoot_dialog("import")
        window.close_dialog("Import")
        imported = self._find(LEGACY[0])
        self.odoo.call(INSTANCE, "write", [imported], {"chart_version": "1.5.0"})
        self._open(imported)
        window.choose_action("Adopt Ownership…")
        window.shoot_dialog("adoption")
        window.close_dialog()

    def _delete_in_production(self, application: int) -> None:
        with self._production():
            self._open(application)
            self.window.press("Delete from Cluster")
            self.window.shoot_dialog("delete-production")
            self.window.close_dialog("Keep")

    @contextmanager
    def _production(self) -> Iterator[None]:
        self.odoo.call(CLUSTER, "write", [self.cluster], {"is_production": True})
        try:
            yield
        finally:
            self.odoo.call(CLUSTER, "write", [self.cluster], {"is_production": False})

    # === IN ODOO === #

    def _find(self, name: str) -> int:
        found = [("name", "=", name), ("cluster_id", "=", self.cluster)]
        return int(self.odoo.call(INSTANCE, "search", found)[0])

    def _open(self, application: int) -> None:
        self.window.open(f"vworkspace-applications/{application}")

    def _write(
        self,
        application: int,
        *,
        replicas: int,
        title: str = "Team Wiki",
        memory: str = "256Mi",
        **values: Any,
    ) -> None:
        text = VALUES.format(replicas=replicas, title=title, memory=memory)
        values = {**values, "values_yaml": text}
        self.odoo.call(INSTANCE, "write", [application], values)

    def _deploy(self, application: int, *, ends: str = "applied") -> None:
        self.odoo.call(INSTANCE, "action_deploy", [application])
        self._wait_for(application, "delivery_state", ends)

    def _wait_for(self, application: int, field: str, value: Any) -> None:
        wait_until(
            lambda: self._read(application, field) == value,
            what=f"{field} {value}",
            timeout=TIMEOUT / 1000,
        )

    def _read(self, application: int, field: str) -> Any:
        return self.odoo.call(INSTANCE, "read", [application], [field])[0][field]

    def _clear(self) -> None:
        """Remove what the story made, now or when it was told before."""
        made = [
            ("name", "in", (APPLICATION, *LEGACY)),
            ("cluster_id", "=", self.cluster),
        ]
        for application in self.odoo.call(INSTANCE, "search", made):
            state = self._read(application, "delivery_state")
            if state not in ("draft", "deleted", "lost"):
                self.odoo.call(INSTANCE, "action_delete_from_cluster", [application])
                self._wait_for(application, "delivery_state", "deleted")
            self.odoo.call(INSTANCE, "unlink", [application])
        for name in LEGACY:
            self._kubectl(
                *("delete", "applicationinstance", name, "--ignore-not-found"),
                namespace=self.legacy_namespace,
            )
        offered = [("catalog_id", "=", ENTRY["catalog_id"])]
        entries = self.odoo.call(CATALOG_ENTRY, "search", offered)
        self.odoo.call(CATALOG_ENTRY, "unlink", entries)

    # === IN THE CLUSTER === #

    def _patch_as_rival(self, *, replicas: int, title: str, memory: str) -> None:
        values = {
            "replicaCount": replicas,
            "ui": {"title": title},
            "limits": {"memory": memory},
        }
        change = {"spec": {"values": {"inline": values}}}
        self._kubectl(
            *("patch", "applicationinstance", APPLICATION, "--type", "merge"),
            *("--field-manager", RIVAL, "-p", json.dumps(change)),
            namespace=self.namespace,
        )

    def _apply_as_agent(self, name: str) -> None:
        chart = {"sourceType": "oci", "url": ENTRY["chart_url"]}
        manifest = {
            "apiVersion": "apps.vworkspace.io/v1alpha1",
            "kind": "ApplicationInstance",
            "metadata": {"name": name, "namespace": self.legacy_namespace},
            "spec": {
                "appRef": {"catalogId": name},
                "chart": {**chart, "name": name, "version": "1.4.2"},
                "release": {"name": name, "namespace": self.legacy_namespace},
                "values": {"source": "inline", "inline": {"replicaCount": 2}},
            },
        }
        self._kubectl(
            *("apply", "--server-side", "--field-manager", AGENT, "-f", "-"),
            namespace=self.legacy_namespace,
            input=json.dumps(manifest),
        )

    def _kubectl(
        self, *arguments: str, namespace: str, input: str | None = None
    ) -> None:
        self.control_plane.kubectl(*arguments, "-n", namespace, input=input)
