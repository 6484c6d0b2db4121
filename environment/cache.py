"""What is downloaded or built once and shared by all checkouts.

An entry is named by what made it (a version, a lock file's hash). It is built in a
folder of its own name and becomes the entry by renaming one symbolic link to it:
complete or not there, and a virtual environment keeps the path it was made with.
A file lock makes two runs at once build it once; what an interrupted build left is
removed by the next.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .progress import say


def cache_folder() -> Path:
    """Return the cache's folder, `$XDG_CACHE_HOME/vworkspace-push`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "vworkspace-push"


def build_log(name: str) -> Path:
    """Return where the build of the entry `name` writes its output."""
    return cache_folder() / "logs" / f"{name}.log"


def fingerprint(*parts: str | bytes | Path) -> str:
    """Return a short hash of texts and of files' contents, for an entry's name."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part
        content = content.encode() if isinstance(content, str) else content
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:12]


def entry(name: str, build: Callable[[Path], None]) -> Path:
    """Return the folder of the entry `name`; build it first when it is not there.

    :param build: fills the empty folder that it is given; raises when it cannot
    """
    link = cache_folder() / name
    if link.exists():
        return link
    with _locked(link):
        if not link.exists():
            _remove_leftovers(link)
            _build(link, build)
    return link


def _build(link: Path, build: Callable[[Path], None]) -> None:
    folder = Path(tempfile.mkdtemp(prefix=f"{link.name}.build-", dir=link.parent))
    folder.chmod(0o755)
    try:
        build(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    fresh = Path(f"{folder}.link")
    fresh.symlink_to(folder.name)
    fresh.replace(link)


def _remove_leftovers(link: Path) -> None:
    for path in link.parent.glob(f"{link.name}.build-*"):
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked(link: Path) -> Iterator[None]:
    link.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{link}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"  Another run is making {link.name}; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
