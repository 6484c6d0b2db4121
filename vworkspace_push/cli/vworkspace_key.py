import sys

from odoo.cli import Command

BATCH = 100  # credentials that one transaction seals anew


class VworkspaceKey(Command):
    """Make, check and rotate the keys that seal the clusters' credentials.

    generate: print a new key, to standard output and nowhere else. Put it into a file
    that only Odoo's user can read, and name that file in VWORKSPACE_PUSH_KEYS_FILE.

    check: say of each stored credential whether the configured keys open it.

    rotate: seal with the first configured key what older keys sealed. Put the new key
    in front of the old one first; remove the old one when this is done. It can be
    interrupted and run again.
    """

    name = "vworkspace_key"

    def run(self, args):
        self.parser.add_argument("action", choices=["generate", "check", "rotate"])
        known, rest = self.parser.parse_known_args(args)
        if known.action == "generate":
            self._generate()
            return
        from odoo.tools import config

        config.parse_config(rest, setup_logging=True)
        if not config["db_name"]:
            sys.exit(f"Say which database: odoo vworkspace_key {known.action} -d NAME")
        run = self._check if known.action == "check" else self._rotate
        outcomes = [run(name) for name in config["db_name"]]
        if not all(outcomes):
            sys.exit(1)

    def _generate(self):
        from cryptography.fernet import Fernet

        print(Fernet.generate_key().decode())

    def _check(self, dbname):
        from odoo.addons.vworkspace_push.transactions import in_transaction

        sentences, all_open = in_transaction(
            _registry(dbname),
            lambda env: env["vworkspace.cluster.credential"]._check_sealed(),
        )
        for sentence in sentences or ["no credentials are stored"]:
            print(f"{dbname}: {sentence}")
        return all_open

    def _rotate(self, dbname):
        from odoo.addons.vworkspace_push.sealing import SealingError
        from odoo.addons.vworkspace_push.transactions import in_transaction

        total = 0
        try:
            while done := in_transaction(
                _registry(dbname),
                lambda env: env["vworkspace.cluster.credential"]._reseal(limit=BATCH),
            ):
                total += done
        except SealingError as exc:
            print(f"{dbname}: {total} sealed anew, then: {exc}", file=sys.stderr)
            return False
        print(f"{dbname}: {total} sealed anew, all others were already")
        return True


def _registry(dbname):
    from odoo.modules.registry import Registry

    return Registry(dbname)
