"""Packages from Debian's archive, unpacked into a folder and never installed.

apt does the work with a state of its own, so that no root is needed and nothing on
the machine changes: it finds the mirror in the machine's own configuration, verifies
the archive's signature with Debian's keyring and the packages by their hashes.
"""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .progress import Failure, run_logged
from .system import find_program

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True)
class Archive:
    """Where the machine gets Debian from."""

    mirror: str
    keyring: str  # "" = the keys that apt trusts anyway


def unpack(
    folder: Path, *, unstable: Sequence[str], stable: Sequence[str], log: Path
) -> None:
    """Download packages and unpack them into `folder`, all under one root.

    :param unstable: packages from Debian unstable
    :param stable: packages from the suite that the machine runs
    :raise Failure: there is no apt, no Debian mirror, or no such package
    """
    if not (find_program("apt-get") and find_program("dpkg-deb")):
        raise Failure("This machine has no apt.")
    work = folder / "apt"
    ours = _private_state(work / "stable", sources=None)
    run_logged(["apt-get", "update"], log=log, env=ours)
    archive = _debian_archive(ours)
    signed_by = f"[signed-by={archive.keyring}] " if archive.keyring else ""
    theirs = _private_state(
        work / "unstable", sources=f"deb {signed_by}{archive.mirror} unstable main\n"
    )
    run_logged(["apt-get", "update"], log=log, env=theirs)
    packages = work / "packages"
    packages.mkdir()
    for names, env in ((stable, ours), (unstable, theirs)):
        run_logged(["apt-get", "download", *names], log=log, env=env, cwd=packages)
    for package in sorted(packages.glob("*.deb")):
        run_logged(["dpkg-deb", "-x", package, folder], log=log)
    run_logged(["rm", "-rf", work], log=log)


def _private_state(folder: Path, *, sources: str | None) -> dict[str, str]:
    """Return an environment in which apt keeps its state in `folder`.

    :param sources: the content of its sources list; the machine's own when None
    """
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    settings = [
        f'Dir::State "{folder}/state";',
        'Dir::State::status "/dev/null";',
        f'Dir::Cache "{folder}/cache";',
        'Dir::Etc::preferences "/dev/null";',
        'Dir::Etc::preferencesparts "/dev/null";',
        # Its own sandbox user cannot reach a folder in root's home.
        'APT::Sandbox::User "root";',
        'Acquire::Languages "none";',
        'Acquire::Retries "3";',
    ]
    if sources is not None:
        (folder / "sources.list").write_text(sources)
        settings += [
            f'Dir::Etc::sourcelist "{folder}/sources.list";',
            'Dir::Etc::sourceparts "/dev/null";',
        ]
    (folder / "apt.conf").write_text("\n".join(settings) + "\n")
    return {**os.environ, "APT_CONFIG": str(folder / "apt.conf"), "LC_ALL": "C"}


def _debian_archive(env: dict[str, str]) -> Archive:
    """Return the mirror of Debian's main archive and the keyring that apt uses."""
    fields = "$(ORIGIN)|$(RELEASE)|$(COMPONENT)|$(SITE)|$(SIGNED_BY)"
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", fields, "Created-By: Packages"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout
    for line in listed.splitlines():
        origin, release, component, site, signed_by = line.split("|", 4)
        if origin == "Debian" and component == "main" and "-" not in release:
            return Archive(site, _keyring(signed_by))
    raise Failure("apt's configuration names no Debian mirror.")


def _keyring(signed_by: str) -> str:
    # An apt that does not know the field prints it back.
    if signed_by.startswith("/"):
        return signed_by
    return str(KEYRING) if KEYRING.exists() else ""
