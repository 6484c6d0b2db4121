"""The cache holds complete entries or none, whatever happens to their builders."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from environment import cache
from environment.paths import CHECKOUT


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "vworkspace-push"


def _write(folder):
    (folder / "content").write_text("complete")


def _names(folder):
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_entry_is_built_once():
    builds = []
    for _ in range(2):
        path = cache.entry("thing-1", lambda folder: builds.append(_write(folder)))
    assert (path / "content").read_text() == "complete"
    assert len(builds) == 1


def test_failed_build_leaves_nothing(folder):
    def fail(target):
        _write(target)
        raise RuntimeError("no network")

    with pytest.raises(RuntimeError, match="no network"):
        cache.entry("thing-1", fail)
    assert _names(folder) == set()


def test_killed_build_is_not_an_entry_and_is_cleared_by_the_next(folder):
    code = """
        import os, signal
        from environment import cache
        def build(folder):
            (folder / "content").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        cache.entry("thing-1", build)
    """
    died = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=CHECKOUT,
        env=dict(os.environ),
        check=False,
    )
    assert died.returncode == -signal.SIGKILL
    assert len(_names(folder)) == 1
    path = cache.entry("thing-1", _write)
    assert (path / "content").read_text() == "complete"
    assert _names(folder) == {"thing-1", path.resolve().name}


def _build_at_once(counter, both):
    def build(folder):
        with counter.get_lock():
            counter.value += 1
        _write(folder)

    both.wait(30)
    assert (cache.entry("thing-1", build) / "content").exists()


def test_two_runs_at_once_build_once():
    context = multiprocessing.get_context("fork")
    counter = context.Value("i", 0)
    both = context.Barrier(2)
    runs = [
        context.Process(target=_build_at_once, args=(counter, both)) for _ in range(2)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join(30)
    assert [run.exitcode for run in runs] == [0, 0]
    assert counter.value == 1


def test_fingerprint_depends_on_content_and_on_boundaries(tmp_path):
    file = tmp_path / "lock"
    file.write_text("a")
    assert cache.fingerprint(file) == cache.fingerprint("a")
    assert cache.fingerprint("ab") != cache.fingerprint("a", "b")
