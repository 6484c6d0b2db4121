"""Seals secrets for storage, with keys that never come from the database.

Keys are Fernet keys (`cryptography.fernet`), the first one seals, all of them open:
that is what makes rotation possible. They come from the environment variable
``VWORKSPACE_PUSH_KEYS``, from the file that ``VWORKSPACE_PUSH_KEYS_FILE`` names, or
from ``keys``/``keys_file`` in the section ``[vworkspace_push]`` of Odoo's
configuration file, the first that is set.

A sealed text carries the database, the record and the purpose inside, so that a value
copied to another record or another database does not open.
"""

import configparser
import json
import os
import re

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from odoo.tools import config

ENV_KEYS = "VWORKSPACE_PUSH_KEYS"
ENV_KEYS_FILE = "VWORKSPACE_PUSH_KEYS_FILE"
SECTION = "vworkspace_push"


class SealingError(Exception):
    """A secret cannot be sealed or opened; the text says what an admin can do."""


def seal(secret: str, *, database: str, record: str, purpose: str) -> str:
    """Return `secret` as a sealed text that opens only in the same place.

    :param database: the database's uuid
    :param record: ``model,id`` of the record that holds it
    :param purpose: what the secret is for, such as ``token``
    :raise SealingError: when there is no key, or a malformed one
    """
    envelope = {"d": database, "r": record, "p": purpose, "s": secret, "v": 1}
    return _fernet().encrypt(json.dumps(envelope).encode()).decode()


def unseal(sealed: str, *, database: str, record: str, purpose: str) -> str:
    """Return the secret inside `sealed`.

    :raise SealingError: when no key opens it, or it was sealed for another place
    """
    try:
        envelope = json.loads(_fernet().decrypt(sealed.encode()))
    except InvalidToken:
        raise SealingError(
            "None of the configured keys opens the stored credential. Restore the key "
            "that sealed it, or store the credential again."
        ) from None
    place = (envelope["d"], envelope["r"], envelope["p"])
    if place != (database, record, purpose):
        raise SealingError(
            "The stored credential was sealed for another database or another record. "
            "Store it again here."
        )
    return envelope["s"]


def is_sealed_by_first_key(sealed: str) -> bool:
    """Tell whether `sealed` needs no other key than the one that seals now.

    :raise SealingError: when there is no key, or a malformed one
    """
    try:
        _fernets()[0].decrypt(sealed.encode())
    except InvalidToken:
        return False
    return True


def check_keys() -> None:
    """Raise SealingError when secrets cannot be sealed in this process."""
    _fernet()


def _fernet() -> MultiFernet:
    return MultiFernet(_fernets())


def _fernets() -> list[Fernet]:
    keys = _configured_keys()
    if not keys:
        raise SealingError(
            "There is no key to seal secrets with. Make one with "
            '"odoo vworkspace_key generate", put it into a file that only Odoo\'s '
            f"user can read, name that file in {ENV_KEYS_FILE} (or as keys_file in "
            f"section [{SECTION}] of Odoo's configuration file), and restart Odoo."
        )
    try:
        return [Fernet(key) for key in keys]
    except ValueError:
        raise SealingError(
            "A configured sealing key is not a Fernet key: 32 bytes in URL-safe "
            'base64. Make one with "odoo vworkspace_key generate".'
        ) from None


def _configured_keys() -> list[str]:
    section = _config_section()
    if text := os.environ.get(ENV_KEYS):
        return _split(text)
    if path := os.environ.get(ENV_KEYS_FILE):
        return _read_keys_file(path)
    if text := section.get("keys"):
        return _split(text)
    if path := section.get("keys_file"):
        return _read_keys_file(path)
    return []


def _config_section() -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(config["config"] or [])
    except configparser.Error:  # Odoo itself complains about a broken file
        return {}
    return dict(parser[SECTION]) if parser.has_section(SECTION) else {}


def _read_keys_file(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii") as file:
            return _split(file.read(65536))
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
        raise SealingError(
            f"The key file named by the configuration cannot be read: {reason}. "
            "Check its path and that Odoo's user may read it."
        ) from None


def _split(text: str) -> list[str]:
    """Return the keys in `text`: between them blanks, commas or lines; # comments."""
    lines = (line.partition("#")[0] for line in text.splitlines())
    return [key for line in lines for key in re.split(r"[\s,]+", line) if key]
