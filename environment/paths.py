"""Where things are: the checkout and its work folder."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
ADDON = CHECKOUT / "vworkspace_push"


def work_folder() -> Path:
    """Return the folder of this checkout's running state.

    `VWORKSPACE_WORK` names another one, so that one checkout can hold several demos.
    """
    return Path(os.environ.get("VWORKSPACE_WORK") or CHECKOUT / ".work").absolute()
