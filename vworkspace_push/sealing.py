"""Seals secrets for storage, with keys that never come from the database.

Keys are Fernet keys (`cryptography.fernet`), the first one seals, all of them open:
that is what makes rotation possible. They come from the environment variable
``VWORKSPACE_PUSH_KEYS``, from the file that ``VWORKSPACE_PUSH_KEYS_FILE`` names, or
from ``keys``/``keys_file`` in the section ``[vworkspace_push]`` of Odoo's
configuration file, the first that is set.

A sealed text carries the database, the record and the purpose inside, so that a value
copied to another record or another database does not open.
"""

import json
import os
import re
from dataclasses import asdict, dataclass, replace

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from . import settings

ENV_KEYS = "VWORKSPACE_PUSH_KEYS"
ENV_KEYS_FILE = "VWORKSPACE_PUSH_KEYS_FILE"


class SealingError(Exception):
    """A secret cannot be sealed or opened; the text says what an admin can do."""


class CopiedDatabase(SealingError):
    """The secret was sealed by the database that this one is a copy of."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where, and for what, a secret was sealed: it opens nowhere else.

    :param database: names one database and no copy of it
    :param record: ``model,id`` of the record that holds it
    :param purpose: what the secret is for, such as ``credential``
    :param destination: where it may be sent to
    """

    database: str
    record: str
    purpose: str
    destination: str


def seal(secret: str, place: Place) -> str:
    """Return `secret` as a sealed text that opens only in the same place.

    :raise SealingError: when there is no key, or a malformed one
    """
    envelope = {"v": 1, "place": asdict(place), "secret": secret}
    return _fernet().encrypt(json.dumps(envelope).encode()).decode()


def unseal(sealed: str, place: Place) -> str:
    """Return the secret inside `sealed`.

    :raise CopiedDatabase: when it was sealed for the same record of another database
    :raise SealingError: when no key opens it, or it was sealed for another place
    """
    envelope = _open(sealed)
    sealed_for = Place(**envelope["place"])
    if replace(sealed_for, database="", destination="") != replace(
        place, database="", destination=""
    ):
        raise SealingError(
            "The stored credential was sealed for another record. Store it again here."
        )
    if sealed_for.database != place.database:
        raise CopiedDatabase(
            "This database looks like a copy: the credential was stored by another "
            "one. Nothing is sent to clusters until an administrator confirms, on the "
            "cluster's form, that this is the one true database."
        )
    if sealed_for.destination != place.destination:
        raise SealingError(
            "The cluster's address, certificate or proxy changed since the credential "
            "was stored, and it is not sent anywhere else than it was meant for. Store "
            "it again."
        )
    return envelope["secret"]


def adopt(sealed: str, database: str) -> str:
    """Return `sealed` for `database`, whichever database sealed it.

    For an administrator's confirmation alone that this database takes over. Record,
    purpose and destination stay as they were.
    """
    envelope = _open(sealed)
    return seal(
        envelope["secret"], replace(Place(**envelope["place"]), database=database)
    )


def rotate(sealed: str) -> str:
    """Return `sealed`, for the same place, sealed with the first key."""
    try:
        return _fernet().rotate(sealed.encode()).decode()
    except InvalidToken:
        raise SealingError(_NO_KEY_OPENS) from None


def _open(sealed):
    try:
        return json.loads(_fernet().decrypt(sealed.encode()))
    except InvalidToken:
        raise SealingError(_NO_KEY_OPENS) from None


_NO_KEY_OPENS = (
    "None of the configured keys opens the stored credential. Restore the key that "
    "sealed it, or store the credential again."
)


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
            f"section [{settings.SECTION}] of Odoo's configuration file), and restart "
            "Odoo."
        )
    try:
        return [Fernet(key) for key in keys]
    except ValueError:
        raise SealingError(
            "A configured sealing key is not a Fernet key: 32 bytes in URL-safe "
            'base64. Make one with "odoo vworkspace_key generate".'
        ) from None


def _configured_keys() -> list[str]:
    section = settings.section()
    if text := os.environ.get(ENV_KEYS):
        return _split(text)
    if path := os.environ.get(ENV_KEYS_FILE):
        return _read_keys_file(path)
    if text := section.get("keys"):
        return _split(text)
    if path := section.get("keys_file"):
        return _read_keys_file(path)
    return []


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
