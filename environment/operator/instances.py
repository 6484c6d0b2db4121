"""What to report on an application instance next: pure decisions.

A new generation is reported as Reconciling, and after a delay as what its behaviour
says: ready, degraded, failed. A placeholder is Suspended and a blocked one Blocked,
both at once; one that a finalizer holds is Deleting. A status that is settled is left
alone until the generation or the behaviour changes, so that a test can write its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .conditions import Wanted, are_met, render, status_of

Object = Mapping[str, Any]

_CARRIED_OVER = (
    "helmReleaseRef",
    "lastAppliedChart",
    "lastReconcileTime",
    "endpoints",
)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far one generation of an instance has come; `since` in monotonic seconds."""

    generation: int
    settled: bool
    behaviour: str | None = None
    since: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """What to do now: write `status` (if any), keep `progress`, look again at `due`.

    `progress` counts only once the status is written. `due` is in monotonic seconds.
    """

    status: dict[str, Any] | None = None
    story: str = ""
    progress: Any = None
    due: float | None = None


def instance_step(
    instance: Object,
    *,
    behaviour: str | None,
    progress: Progress | None,
    now: float,
    delay: float,
    at: str,
) -> Step:
    """Return what to report on an instance now.

    `now` is in monotonic seconds, `delay` in seconds from Reconciling to the outcome,
    `at` is the wall-clock time as RFC 3339.
    """
    if behaviour == "silent":
        return Step()
    if instance["metadata"].get("deletionTimestamp"):
        return _report_deletion(instance, at=at)
    if _is_incomplete(instance):
        behaviour = "block"
    if progress is None or progress.generation != _generation(instance):
        progress = _resume(instance, now=now)
    if progress is None or _tries_again(progress, behaviour):
        return _begin(instance, behaviour=behaviour, now=now, at=at)
    if progress.settled:
        return _settled(instance, behaviour=behaviour, progress=progress, at=at)
    due = progress.since + delay
    if behaviour != "block" and now < due:
        return Step(progress=progress, due=due)
    return _finish(instance, behaviour=behaviour, at=at)


def _generation(instance: Object) -> int:
    return instance["metadata"]["generation"]


def _resume(instance: Object, *, now: float) -> Progress | None:
    """Return the progress that the status tells of, for an operator that restarted."""
    generation = _generation(instance)
    if instance.get("status", {}).get("observedGeneration") != generation:
        return None
    settled = status_of(instance, "Reconciling") != "True"
    # "?" is no behaviour: the conditions decide whether there is something to write.
    return Progress(generation=generation, settled=settled, behaviour="?", since=now)


def _tries_again(progress: Progress, behaviour: str | None) -> bool:
    stuck = ("fail", "block")
    return progress.settled and progress.behaviour in stuck and behaviour not in stuck


def _report_deletion(instance: Object, *, at: str) -> Step:
    """Seen only while somebody's finalizer holds the object; this operator has none."""
    text = "The release is uninstalled; a finalizer holds the object"
    wanted = [
        Wanted("Deleting", "True", "Uninstalled", text),
        Wanted("Ready", "False", "Uninstalled", text),
    ]
    if are_met(instance, wanted):
        return Step()
    return Step(
        status=_status(instance, wanted, at=at),
        story=f"Deleting=True, {text}",
    )


def _begin(instance: Object, *, behaviour: str | None, now: float, at: str) -> Step:
    if behaviour == "block" or _is_placeholder(instance):
        return _finish(instance, behaviour=behaviour, at=at)
    upgrading = "helmReleaseRef" in instance.get("status", {})
    reason = "Upgrading" if upgrading else "Installing"
    message = f"{reason} chart {_chart(instance)}"
    wanted = [
        Wanted("Ready", "False", reason, message),
        Wanted("Reconciling", "True", reason, message),
        Wanted("Degraded", "False", reason),
        Wanted("Blocked", "False", reason),
    ]
    generation = _generation(instance)
    return Step(
        status=_status(instance, wanted, at=at),
        story=f"generation {generation}: {message}",
        progress=Progress(
            generation=generation, settled=False, behaviour=behaviour, since=now
        ),
    )


def _settled(
    instance: Object, *, behaviour: str | None, progress: Progress, at: str
) -> Step:
    if behaviour == progress.behaviour:
        return Step(progress=progress)
    wanted, _extra = _outcome(instance, behaviour=behaviour, at=at)
    if are_met(instance, wanted):
        return Step(
            progress=Progress(
                generation=progress.generation, settled=True, behaviour=behaviour
            )
        )
    return _finish(instance, behaviour=behaviour, at=at)


def _finish(instance: Object, *, behaviour: str | None, at: str) -> Step:
    wanted, extra = _outcome(instance, behaviour=behaviour, at=at)
    told = next(item for item in wanted if item.status == "True" or item.message)
    generation = _generation(instance)
    return Step(
        status=_status(instance, wanted, at=at) | extra,
        story=f"generation {generation}: {told.type}={told.status}, {told.message}",
        progress=Progress(generation=generation, settled=True, behaviour=behaviour),
    )


def _outcome(
    instance: Object, *, behaviour: str | None, at: str
) -> tuple[list[Wanted], dict[str, Any]]:
    """Return the conditions that a behaviour ends in, and the fields beside them."""
    if behaviour == "block":
        if _is_incomplete(instance):
            text = "The spec lacks chart or release"
            return _not_ready("InvalidSpec", text, blocked="True"), {}
        text = "A dependency of the chart is missing (simulated)"
        return _not_ready("DependencyMissing", text, blocked="True"), {}
    if _is_placeholder(instance):
        text = "The name is reserved; nothing is installed"
        return [
            Wanted("Suspended", "True", "Placeholder", text),
            Wanted("Ready", "False", "Placeholder", text),
            Wanted("Reconciling", "False", "Placeholder"),
        ], {}
    if behaviour == "fail":
        text = f"Helm could not install {_chart(instance)} (simulated)"
        return _not_ready("HelmFailed", text, degraded="True"), {}
    return _installed(instance, degraded=behaviour == "degrade"), {
        "helmReleaseRef": dict(instance["spec"]["release"]),
        "lastAppliedChart": dict(instance["spec"]["chart"]),
        "lastReconcileTime": at,
        "endpoints": [_endpoint(instance)],
    }


def _not_ready(
    reason: str, text: str, *, degraded: str = "False", blocked: str = "False"
) -> list[Wanted]:
    return [
        Wanted("Ready", "False", reason, text),
        Wanted("Reconciling", "False", reason),
        Wanted("Degraded", degraded, reason, text if degraded == "True" else ""),
        Wanted("Blocked", blocked, reason, text if blocked == "True" else ""),
    ]


def _installed(instance: Object, *, degraded: bool) -> list[Wanted]:
    healthy = Wanted("Degraded", "False", "Healthy")
    ill = Wanted(
        "Degraded",
        "True",
        "ReplicasUnavailable",
        "1 of 2 replicas is available (simulated)",
    )
    ready = Wanted("Ready", "True", "Installed", f"{_chart(instance)} is installed")
    rest = [
        Wanted("Reconciling", "False", "Installed"),
        Wanted("Blocked", "False", "Installed"),
    ]
    return [ill, ready, *rest] if degraded else [ready, healthy, *rest]


def _status(instance: Object, wanted: list[Wanted], *, at: str) -> dict[str, Any]:
    before = instance.get("status", {})
    kept = {field: before[field] for field in _CARRIED_OVER if field in before}
    return kept | {
        "observedGeneration": _generation(instance),
        "conditions": render(instance, wanted, at=at),
    }


def _is_placeholder(instance: Object) -> bool:
    return instance["spec"].get("mode") == "placeholder"


def _is_incomplete(instance: Object) -> bool:
    """An instance that was written while admission was away may lack what is needed."""
    spec = instance["spec"]
    return not _is_placeholder(instance) and not {"chart", "release"} <= set(spec)


def _chart(instance: Object) -> str:
    chart = instance["spec"]["chart"]
    return f"{chart['name']} {chart['version']}"


def _endpoint(instance: Object) -> dict[str, str]:
    spec = instance["spec"]
    release = spec["release"]
    host = f"{release['name']}.{release['namespace']}.svc.example"
    ingress = spec.get("integrations", {}).get("ingress", {})
    if ingress.get("enabled") and ingress.get("host"):
        host = ingress["host"]
    return {"name": "web", "url": f"http://{host}", "type": "http"}
