"""Deploys one application as a request does, and dies where delivery would begin.

    ODOO_RC=… python deploy_and_crash.py DATABASE RECORD_ID

It exits with code 9, right after the commit, as a process does that is killed there.
"""

import os
import sys


def main(database, record_id):
    import odoo
    from odoo.modules.registry import Registry
    from odoo.tools import config

    config.parse_config(["-c", os.environ["ODOO_RC"], "-d", database])
    registry = Registry(database)

    from odoo.addons.vworkspace_push.delivery import deliver

    deliver.deliver = lambda *_args, **_kwargs: os._exit(9)
    with registry.cursor() as cr:
        env = odoo.api.Environment(cr, odoo.SUPERUSER_ID, {})
        env["vworkspace.application.instance"].browse(record_id).action_deploy()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
