"""What to report on an operation next: pure decisions.

Pending, Accepted, Running, then Succeeded or Failed. Before it is accepted an
operation may be Blocked: by a missing approval, by another operation on the same
target (the conflict matrix of contract §2), or by a target that is not ready.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .conditions import Wanted, are_met, render, status_of
from .instances import Step
from .resources import find_template

Object = Mapping[str, Any]

# How long a stage lasts, as a share of the delay.
STAGES = {"Pending": 0.25, "Accepted": 0.25, "Running": 1.0}

# type → types that must not be in flight on the same target
CONFLICTS = {
    "Upgrade": {"Upgrade"},
    "Restore": {"Upgrade", "Backup"},
    "Backup": {"Restore"},
}
_IN_FLIGHT = {None, "Pending", "Running"}

# type → kind of the object that its engine would run, and the output that names it
_ENGINE_OBJECTS = {
    "Backup": ("Backup", "backupName"),
    "Restore": ("Restore", "restoreName"),
    "Upgrade": ("HelmRelease", "releaseName"),
    "Migration": ("Job", "jobName"),
    "RunCommand": ("Job", "jobName"),
    "Runbook": ("Workflow", "workflowName"),
}


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Since when (monotonic seconds) an operation is in a stage."""

    stage: str
    since: float


def operation_step(
    operation: Object,
    *,
    target: Object | None,
    others: Iterable[Object],
    behaviour: str | None,
    progress: Progress | None,
    now: float,
    delay: float,
    at: str,
) -> Step:
    """Return what to report on an operation now.

    `others` are the other operations on the same target. `now` is in monotonic
    seconds, `delay` in seconds, `at` is the wall-clock time as RFC 3339.
    """
    stage = _stage(operation)
    if stage is None or behaviour == "silent":
        return Step()
    if stage in ("New", "Pending"):
        blocked = _blocked(operation, target, others, behaviour=behaviour)
        if blocked or stage == "New" or status_of(operation, "Blocked") == "True":
            return _wait(operation, blocked, now=now, at=at)
    if progress is None or progress.stage != stage:
        progress = Progress(stage=stage, since=now)
    due = progress.since + STAGES[stage] * delay
    if now < due:
        return Step(progress=progress, due=due)
    if stage == "Pending":
        return _enter(operation, "Accepted", now=now, at=at)
    if stage == "Accepted":
        return _enter(operation, "Running", now=now, at=at)
    return _end(operation, failed=behaviour == "fail", at=at)


def _stage(operation: Object) -> str | None:
    """Return New, Pending, Accepted or Running; None for one that has ended."""
    phase = operation.get("status", {}).get("phase")
    if phase not in _IN_FLIGHT:
        return None
    if phase == "Pending" and status_of(operation, "Accepted") == "True":
        return "Accepted"
    return phase or "New"


# --- what blocks ----------------------------------------------------------------------


def _blocked(
    operation: Object,
    target: Object | None,
    others: Iterable[Object],
    *,
    behaviour: str | None,
) -> Wanted | None:
    if behaviour == "block":
        return _block("DependencyMissing", "The engine is not installed (simulated)")
    if _awaits_approval(operation["spec"]):
        return _block("AwaitingApproval", "The operation has to be approved")
    for other in others:
        if _is_in_the_way(operation, other):
            text = f"{other['spec']['type']} {other['metadata']['name']} is in flight"
            return _block("ConflictingOperation", text)
    if status_of(target, "Ready") != "True":
        name = operation["spec"]["targetRef"]["name"]
        return _block("TargetNotReady", f"Application instance {name} is not ready")
    return None


def _block(reason: str, message: str) -> Wanted:
    return Wanted("Blocked", "True", reason, message)


def _awaits_approval(spec: Object) -> bool:
    approvals = spec.get("approvals", {})
    template = find_template(type=spec["type"], engine=spec["engine"])
    needed = approvals.get("required") or (template and template.needs_approval)
    return bool(needed) and not (approvals.get("claim") or approvals.get("approvedBy"))


def _is_in_the_way(operation: Object, other: Object) -> bool:
    """Of two that wait, the older goes first; one that was accepted is never overtaken.

    Without that order two waiting operations would block each other for ever.
    """
    if other["spec"]["type"] not in CONFLICTS.get(operation["spec"]["type"], ()):
        return False
    stage = _stage(other)
    if stage in ("Accepted", "Running"):
        return True
    return stage is not None and _age(other) < _age(operation)


def _age(operation: Object) -> tuple[str, str]:
    metadata = operation["metadata"]
    return metadata["creationTimestamp"], metadata["name"]


# --- what is reported -----------------------------------------------------------------


def _wait(operation: Object, blocked: Wanted | None, *, now: float, at: str) -> Step:
    wanted = blocked or Wanted("Blocked", "False", "NotBlocked")
    if _stage(operation) == "Pending" and are_met(operation, [wanted]):
        return Step()
    story = "Pending"
    if blocked:
        story += f", blocked: {blocked.reason}, {blocked.message}"
    conditions = [wanted, Wanted("Accepted", "False", "Pending")]
    return Step(
        status={
            "phase": "Pending",
            "conditions": render(operation, conditions, at=at),
        },
        story=story,
        progress=Progress(stage="Pending", since=now),
    )


def _enter(operation: Object, stage: str, *, now: float, at: str) -> Step:
    conditions = [
        Wanted("Accepted", "True", "Accepted", "The operation was accepted"),
        Wanted("Blocked", "False", "NotBlocked"),
    ]
    status: dict[str, Any] = {"phase": "Pending"}
    if stage == "Running":
        engine = operation["spec"]["engine"]
        conditions.append(Wanted("Running", "True", "Started", f"{engine} is at work"))
        status = {"phase": "Running", "startedAt": at} | _references(operation)
    return Step(
        status=status | {"conditions": render(operation, conditions, at=at)},
        story=stage,
        progress=Progress(stage=stage, since=now),
    )


def _end(operation: Object, *, failed: bool, at: str) -> Step:
    spec = operation["spec"]
    phase = "Failed" if failed else "Succeeded"
    message = f"{spec['type']} by {spec['engine']} {phase.lower()}"
    message += " (simulated)" if failed else ""
    conditions = [
        Wanted("Accepted", "True", "Accepted", "The operation was accepted"),
        Wanted("Blocked", "False", "NotBlocked"),
        Wanted("Running", "False", phase),
        Wanted(phase, "True", "EngineFailed" if failed else "Completed", message),
    ]
    status = _references(operation) | {
        "phase": phase,
        "startedAt": operation["status"].get("startedAt", at),
        "finishedAt": at,
        "conditions": render(operation, conditions, at=at),
    }
    if not failed:
        status["outputs"] = _outputs(operation)
    return Step(status=status, story=f"{phase}: {message}")


def _references(operation: Object) -> dict[str, Any]:
    kind, _output = _ENGINE_OBJECTS[operation["spec"]["type"]]
    namespace = operation["metadata"]["namespace"]
    name = operation["metadata"]["name"]
    return {
        "engineRef": {"kind": kind, "name": name, "namespace": namespace},
        "logsRef": {"url": f"http://logs.example/{namespace}/{name}"},
    }


def _outputs(operation: Object) -> dict[str, Any]:
    spec = operation["spec"]
    _kind, output = _ENGINE_OBJECTS[spec["type"]]
    outputs = {output: operation["metadata"]["name"]}
    if spec["type"] == "Upgrade" and "targetVersion" in spec.get("parameters", {}):
        outputs["version"] = spec["parameters"]["targetVersion"]
    return outputs
