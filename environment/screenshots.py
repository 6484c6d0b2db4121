"""Screenshots for the documentation, taken from the running demo.

They show what the first task of the README promises: the demo's application turns
Ready, and degraded when the simulated operator is told so, in a form that stays open
and is never reloaded.
"""

from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from . import demo
from .browser import chromium, flags
from .paths import CHECKOUT
from .progress import Failure, say
from .simulated_operator import SimulatedOperator

FOLDER = CHECKOUT / "docs" / "images"
SIZE = {"width": 1280, "height": 800}
TIMEOUT = 30_000  # ms
APPLICATIONS = "/odoo/vworkspace-applications"


def take(operator: SimulatedOperator, *, url: str) -> int:
    """Take all screenshots; return the exit code.

    :param url: of the running demo
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    instance = f"{demo.GATED_NAMESPACES[0]}/{demo.INSTANCE}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(chromium()), args=flags()
        )
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(TIMEOUT)
        _log_in(page, url)
        page.goto(f"{url}{APPLICATIONS}")
        page.locator(".o_data_row", has_text=demo.INSTANCE).first.click()
        page.get_by_role("tab", name="Status").click()
        _shoot(page, "Ready", FOLDER / "application-ready.png")
        try:
            operator.control(instances={instance: "degrade"})
            _shoot(page, "Degraded", FOLDER / "application-degraded.png")
        finally:
            operator.control(instances={})
        _shoot(page, "Ready", None)
        browser.close()
    return 0


def _log_in(page: Page, url: str) -> None:
    try:
        page.goto(f"{url}/web/login")
    except Exception as exc:
        raise Failure(f"No demo answers at {url}; start it with `make run`.") from exc
    page.fill("input[name=login]", demo.LOGIN)
    page.fill("input[name=password]", demo.PASSWORD)
    page.click("button[type=submit]")
    page.wait_for_url("**/odoo**")


def _shoot(page: Page, health: str, path: Path | None) -> None:
    """Wait until the open form shows `health`, then keep what it looks like."""
    shown = page.locator(".o_form_view [name=health]", has_text=health).first
    shown.wait_for(state="visible")
    if path is not None:
        page.screenshot(path=path)
        say(f"Wrote {path.relative_to(CHECKOUT)}")
