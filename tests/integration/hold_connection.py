"""Holds a connection to a cluster, as a process of Odoo does that delivered before.

    ODOO_RC=… python hold_connection.py DATABASE CLUSTER_ID

For each line that it reads it answers with a line of JSON: whether the connection of
the beginning was closed meanwhile, and a digest of the token that a delivery would
carry now, or why there would be none.
"""

import hashlib
import json
import os
import sys


def main(database, cluster_id):
    import odoo
    from odoo.modules.registry import Registry
    from odoo.tools import config

    config.parse_config(["-c", os.environ["ODOO_RC"], "-d", database])
    registry = Registry(database)

    def connect():
        with registry.cursor() as cr:
            env = odoo.api.Environment(cr, odoo.SUPERUSER_ID, {})
            return env["vworkspace.cluster"].browse(cluster_id)._connection()

    first = connect()
    print("ready", flush=True)
    for _line in sys.stdin:
        answer = {"first_is_closed": is_closed(first)}
        try:
            token = connect().bearer_token()
            answer["token"] = hashlib.sha256(token.encode()).hexdigest()
        except odoo.exceptions.UserError as exc:
            answer["refusal"] = str(exc)
        print(json.dumps(answer), flush=True)


def is_closed(connection):
    from odoo.addons.vworkspace_push.kube.errors import KubeError

    try:
        connection.request("GET", "/version")
    except KubeError as exc:
        return exc.reason == "Closed"
    return False


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
