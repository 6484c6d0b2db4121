import logging
import signal
import sys
import threading

from odoo.cli import Command

_logger = logging.getLogger("odoo.addons.vworkspace_push.cli.vworkspace_watch")


class VworkspaceWatch(Command):
    """Watch the clusters of the configured databases, and keep their records current.

    Runs until SIGTERM or SIGINT, beside the Odoo server and with the same
    configuration. Options that this command does not know are Odoo's own.
    """

    name = "vworkspace_watch"

    def run(self, args):
        from odoo.tools import config

        _known, rest = self.parser.parse_known_args(args)
        config.parse_config(rest, setup_logging=True)
        databases = config["db_name"]
        if not databases:
            sys.exit("Say which database to watch: odoo vworkspace_watch -d NAME")
        self._watch(databases)

    def _watch(self, databases):
        from odoo.addons.vworkspace_push.status.worker import DatabaseWorker

        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_args: stop.set())
        threads = [
            threading.Thread(target=DatabaseWorker(name, stop=stop).run, name=name)
            for name in databases
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
