"""What an installation sets outside the database: environment, configuration file.

A variable ``VWORKSPACE_PUSH_<NAME>`` wins over ``<name>`` in the section
``[vworkspace_push]`` of Odoo's configuration file. Nothing here can be changed by
somebody who has the database or an administrator's login alone.
"""

import configparser
import os

from odoo.tools import config

SECTION = "vworkspace_push"


def get(name: str) -> str:
    """Return the setting `name`; empty when it is not set."""
    return os.environ.get(f"VWORKSPACE_PUSH_{name.upper()}") or section().get(name, "")


def flag(name: str) -> bool:
    """Return whether the setting `name` is switched on."""
    return get(name).strip().lower() in ("1", "true", "yes", "on")


def section() -> dict[str, str]:
    """Return our section of the configuration file; empty when there is none."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(config["config"] or [])
    except configparser.Error:  # Odoo itself complains about a broken file
        return {}
    return dict(parser[SECTION]) if parser.has_section(SECTION) else {}
