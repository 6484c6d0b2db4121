"""What the simulated operator reports next, and in which order."""

from typing import Any

import pytest

from environment.operator.conditions import status_of
from environment.operator.instances import Step, instance_step
from environment.operator.operations import operation_step

AT = "2026-01-01T00:00:00Z"
DELAY = 2.0

INSTANCE = {
    "metadata": {"name": "shop", "namespace": "demo", "generation": 1},
    "spec": {
        "chart": {
            "sourceType": "oci",
            "url": "oci://registry.example",
            "name": "nginx",
            "version": "1.2.3",
        },
        "release": {"name": "shop", "namespace": "demo"},
    },
}
READY = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}


class Clock:
    """Runs an instance or operation through its steps as the engine does."""

    def __init__(self, obj: dict[str, Any]):
        self.obj = obj
        self.now = 100.0
        self.progress: Any = None
        self.writes = 0

    def look(self, **more: Any) -> Step:
        common = {"progress": self.progress, "now": self.now, "delay": DELAY, "at": AT}
        if "type" in self.obj["spec"]:
            more = {"behaviour": None, "target": READY, "others": [], **more}
            step = operation_step(self.obj, **common, **more)
        else:
            step = instance_step(self.obj, **common, **{"behaviour": None, **more})
        self.progress = step.progress
        if step.status is not None:
            self.writes += 1
            self.obj = {**self.obj, "status": step.status}
        return step

    def run(self, **more: Any) -> None:
        """Look, write and wait until nothing is left to do."""
        while True:
            step = self.look(**more)
            if step.status is None and step.due is None:
                return
            self.now = step.due or self.now

    def conditions(self) -> dict[str, str]:
        return {
            item["type"]: item["status"] for item in self.obj["status"]["conditions"]
        }


def upgraded(obj: dict[str, Any]) -> dict[str, Any]:
    generation = obj["metadata"]["generation"] + 1
    return {**obj, "metadata": {**obj["metadata"], "generation": generation}}


# --- application instances ------------------------------------------------------------


def test_reconciles_first_and_is_ready_after_the_delay() -> None:
    clock = Clock(INSTANCE)
    clock.look()
    assert clock.obj["status"]["observedGeneration"] == 1
    assert clock.conditions() | {"Ready": "False", "Reconciling": "True"} == (
        clock.conditions()
    )
    assert clock.look().due == clock.now + DELAY
    clock.now += DELAY
    clock.look()
    status = clock.obj["status"]
    assert status_of(clock.obj, "Ready") == "True"
    assert status_of(clock.obj, "Reconciling") == "False"
    assert status["helmReleaseRef"] == {"name": "shop", "namespace": "demo"}
    assert status["lastAppliedChart"] == INSTANCE["spec"]["chart"]
    assert status["endpoints"][0]["url"] == "http://shop.demo.svc.example"


def test_an_upgrade_keeps_what_is_installed_until_it_is_replaced() -> None:
    clock = Clock(INSTANCE)
    clock.run()
    clock.obj = upgraded(clock.obj)
    clock.look()
    reasons = {
        item["type"]: item["reason"] for item in clock.obj["status"]["conditions"]
    }
    assert reasons["Reconciling"] == "Upgrading"
    assert clock.obj["status"]["observedGeneration"] == 2
    assert clock.obj["status"]["endpoints"]


def test_the_ingress_host_is_the_endpoint() -> None:
    ingress = {"ingress": {"enabled": True, "host": "shop.example"}}
    clock = Clock({**INSTANCE, "spec": {**INSTANCE["spec"], "integrations": ingress}})
    clock.run()
    assert clock.obj["status"]["endpoints"][0]["url"] == "http://shop.example"


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        ("slow", {"Ready": "True", "Degraded": "False", "Blocked": "False"}),
        ("degrade", {"Ready": "True", "Degraded": "True", "Blocked": "False"}),
        ("fail", {"Ready": "False", "Degraded": "True", "Blocked": "False"}),
        ("block", {"Ready": "False", "Degraded": "False", "Blocked": "True"}),
    ],
)
@pytest.mark.parametrize("already_ready", [False, True])
def test_misbehaves_and_heals(
    behaviour: str, expected: dict[str, str], already_ready: bool
) -> None:
    clock = Clock(INSTANCE)
    if already_ready:
        clock.run()
    clock.run(behaviour=behaviour)
    assert clock.conditions() == {**expected, "Reconciling": "False"}
    clock.run()
    assert clock.conditions() == {
        "Ready": "True",
        "Reconciling": "False",
        "Degraded": "False",
        "Blocked": "False",
    }


def test_silence_writes_nothing_and_ends() -> None:
    clock = Clock(INSTANCE)
    clock.run(behaviour="silent")
    assert clock.writes == 0
    clock.run()
    assert status_of(clock.obj, "Ready") == "True"


def test_a_settled_status_is_left_alone() -> None:
    clock = Clock(INSTANCE)
    clock.run()
    clock.obj["status"]["conditions"][0]["status"] = "Unknown"
    clock.run()
    assert status_of(clock.obj, "Ready") == "Unknown"


def test_a_restarted_operator_writes_nothing_new() -> None:
    clock = Clock(INSTANCE)
    clock.run()
    writes, clock.progress = clock.writes, None
    clock.run()
    assert clock.writes == writes


def test_a_restarted_operator_finishes_what_it_began() -> None:
    clock = Clock(INSTANCE)
    clock.look()
    clock.progress = None
    clock.run()
    assert status_of(clock.obj, "Ready") == "True"


def test_a_transition_time_moves_only_with_the_status() -> None:
    clock = Clock(INSTANCE)
    clock.run()
    for item in clock.obj["status"]["conditions"]:
        item["lastTransitionTime"] = "2020-01-01T00:00:00Z"
    clock.run(behaviour="degrade")
    times = {
        item["type"]: item["lastTransitionTime"]
        for item in clock.obj["status"]["conditions"]
    }
    assert times["Degraded"] == AT
    assert times["Ready"] == "2020-01-01T00:00:00Z"


def test_a_placeholder_is_suspended_and_installs_nothing() -> None:
    clock = Clock({**INSTANCE, "spec": {"mode": "placeholder"}})
    clock.run()
    assert clock.conditions()["Suspended"] == "True"
    assert "helmReleaseRef" not in clock.obj["status"]


def test_what_a_finalizer_holds_is_deleting() -> None:
    clock = Clock(INSTANCE)
    clock.run()
    metadata = {**clock.obj["metadata"], "deletionTimestamp": AT}
    clock.obj = {**clock.obj, "metadata": metadata}
    clock.run()
    assert clock.conditions() == {"Deleting": "True", "Ready": "False"}


def test_an_instance_that_admission_never_saw_does_not_stop_the_operator() -> None:
    clock = Clock({**INSTANCE, "spec": {"appRef": {"catalogId": "x"}}})
    clock.run()
    assert clock.conditions()["Blocked"] == "True"


# --- operations -----------------------------------------------------------------------


def operation(
    type: str = "Backup",
    *,
    name: str = "b",
    engine: str = "velero",
    created: str = AT,
    **more: Any,
) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "demo",
            "generation": 1,
            "creationTimestamp": created,
        },
        "spec": {
            "targetRef": {"name": "shop"},
            "type": type,
            "engine": engine,
            **more,
        },
    }


def in_phase(phase: str, op: dict[str, Any]) -> dict[str, Any]:
    return {**op, "status": {"phase": phase}}


def reason(clock: Clock) -> str | None:
    for item in clock.obj["status"]["conditions"]:
        if item["type"] == "Blocked" and item["status"] == "True":
            return item["reason"]
    return None


def test_an_operation_goes_through_its_phases() -> None:
    clock = Clock(operation())
    seen = []
    while True:
        step = clock.look()
        if step.status is not None:
            accepted = status_of(clock.obj, "Accepted")
            seen.append((clock.obj["status"]["phase"], accepted))
        elif step.due is None:
            break
        clock.now = step.due or clock.now
    assert seen == [
        ("Pending", "False"),
        ("Pending", "True"),
        ("Running", "True"),
        ("Succeeded", "True"),
    ]
    assert clock.obj["status"]["outputs"] == {"backupName": "b"}
    assert clock.obj["status"]["startedAt"] == clock.obj["status"]["finishedAt"] == AT


def test_an_operation_can_fail() -> None:
    clock = Clock(operation())
    clock.run(behaviour="fail")
    assert clock.obj["status"]["phase"] == "Failed"
    assert status_of(clock.obj, "Failed") == "True"
    assert "outputs" not in clock.obj["status"]


@pytest.mark.parametrize(
    ("op", "more", "expected"),
    [
        (operation(approvals={"required": True}), {}, "AwaitingApproval"),
        (operation("Restore"), {}, "AwaitingApproval"),
        (operation(), {"target": None}, "TargetNotReady"),
        (operation(), {"behaviour": "block"}, "DependencyMissing"),
    ],
)
def test_what_blocks_an_operation(
    op: dict[str, Any], more: dict[str, Any], expected: str
) -> None:
    clock = Clock(op)
    clock.run(**more)
    assert clock.obj["status"]["phase"] == "Pending"
    assert reason(clock) == expected


@pytest.mark.parametrize(
    ("type", "other", "blocked"),
    [
        ("Upgrade", "Upgrade", True),
        ("Upgrade", "Backup", False),
        ("Upgrade", "Restore", False),
        ("Restore", "Upgrade", True),
        ("Restore", "Backup", True),
        ("Restore", "Restore", False),
        ("Backup", "Restore", True),
        ("Backup", "Upgrade", False),
        ("Backup", "Backup", False),
        ("Runbook", "Upgrade", False),
    ],
)
def test_the_conflict_matrix(type: str, other: str, blocked: bool) -> None:
    approved = {"approvals": {"approvedBy": "ada"}}
    rival = in_phase("Running", operation(other, name="z"))
    clock = Clock(operation(type, **approved))
    clock.run(others=[rival])
    assert (reason(clock) == "ConflictingOperation") is blocked
    clock.run(others=[in_phase("Succeeded", rival)])
    assert clock.obj["status"]["phase"] == "Succeeded"


def test_of_two_that_wait_the_older_goes_first() -> None:
    older = operation("Upgrade", name="z", created="2025-01-01T00:00:00Z")
    younger = operation("Upgrade", name="a")
    first, second = Clock(older), Clock(younger)
    first.run(others=[younger])
    second.run(others=[older])
    assert first.obj["status"]["phase"] == "Succeeded"
    assert reason(second) == "ConflictingOperation"


def test_an_approval_lets_an_operation_go() -> None:
    clock = Clock(operation("Restore"))
    clock.run()
    approvals = {"required": True, "claim": "vws1.body.digest"}
    clock.obj = {**clock.obj, "spec": {**clock.obj["spec"], "approvals": approvals}}
    clock.run()
    assert clock.obj["status"]["phase"] == "Succeeded"
