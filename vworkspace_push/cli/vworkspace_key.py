from odoo.cli import Command


class VworkspaceKey(Command):
    """Make a key that seals the credentials of clusters.

    The key goes to standard output and nowhere else. Put it into a file that only
    Odoo's user can read, and name that file in VWORKSPACE_PUSH_KEYS_FILE.
    """

    name = "vworkspace_key"

    def run(self, args):
        self.parser.add_argument("action", choices=["generate"])
        self.parser.parse_args(args)
        from cryptography.fernet import Fernet

        print(Fernet.generate_key().decode())
