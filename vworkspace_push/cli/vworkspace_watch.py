import sys

from odoo.cli import Command

PORT = 8073  # beside Odoo's own 8069 (HTTP) and 8072 (websocket)


class VworkspaceWatch(Command):
    """Watch the clusters of the configured databases, and keep their records current.

    Runs until SIGTERM or SIGINT, beside the Odoo server and with the same
    configuration. Options that this command does not know are Odoo's own, such as
    -d FIRST,SECOND for the databases.
    """

    name = "vworkspace_watch"

    def run(self, args):
        options, rest = self._parse(args)
        from odoo.tools import config

        config.parse_config(rest, setup_logging=True)
        databases = config["db_name"]
        if not databases:
            sys.exit("Say which database to watch: odoo vworkspace_watch -d NAME")
        from odoo.addons.vworkspace_push.status import service

        try:
            sys.exit(self._run(service, options, databases))
        except service.UsageError as exc:
            sys.exit(str(exc))

    def _parse(self, args):
        parser = self.parser
        mode = parser.add_mutually_exclusive_group()
        mode.add_argument(
            "--once",
            action="store_true",
            help="list everything into the records once, then end;"
            " the exit code is 1 when a cluster could not be read",
        )
        mode.add_argument(
            "--status",
            action="store_true",
            help="print how each cluster is watched, by whichever process, and end",
        )
        parser.add_argument(
            "--clusters",
            metavar="NAMES",
            type=_names,
            default=[],
            help="only these: identifiers of clusters, separated by commas",
        )
        parser.add_argument(
            "--metrics-port",
            type=int,
            default=PORT,
            metavar="PORT",
            help="of /healthz, /readyz and /metrics; 0: none (default: %(default)s)",
        )
        parser.add_argument(
            "--metrics-interface",
            default="127.0.0.1",
            metavar="ADDRESS",
            help="that they are served on (default: %(default)s)",
        )
        return parser.parse_known_args(args)

    def _run(self, service, options, databases):
        """Do what the options say; return the exit code."""
        if options.status:
            print(service.status(databases, options.clusters))
            return 0
        if options.once:
            problems = service.once(databases, options.clusters)
            print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
            return 1 if problems else 0
        port = options.metrics_port
        address = (options.metrics_interface, port) if port else None
        service.watch(databases, options.clusters, address)
        return 0


def _names(text):
    return [name.strip() for name in text.split(",") if name.strip()]
