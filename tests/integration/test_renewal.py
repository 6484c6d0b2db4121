"""Tokens that renew themselves, where an admin switched that on."""

import pytest

from tests.registration import (
    Spy,
    activities,
    call,
    credentials,
    list_namespace,
    make_application,
    register,
    verify,
    write,
)
from tests.waiting import eventually

ACCOUNT = "vworkspace-control-plane"
RENEWAL_ROLE = "vworkspace-control-plane-renewal"
HOME = "vworkspace-system"


@pytest.fixture
def renewing(database, control_plane, namespace):
    """An active cluster whose account got the rights that the page then prints."""
    cluster = register(database, control_plane, grant_self_renewal=True)
    list_namespace(database, cluster, namespace)
    control_plane.apply(database.read(cluster, "rights_manifest"))
    write(database, cluster, token=control_plane.service_account_token())
    verify(database, cluster)
    call(database, cluster, "action_activate")
    yield cluster
    forbid_renewal(control_plane)
    call(database, cluster, "action_revoke")
    call(database, cluster, "action_erase_unverified")
    # Its audit entries keep it: it steps aside for the next one.
    aside = {"active": False, "cluster_id": f"aside-{cluster.id}"}
    database.call("admin", cluster._name, "write", cluster.ids, aside)


def test_a_token_whose_time_has_come_is_renewed_and_used(
    database, renewing, monkeypatch
):
    spy = Spy(monkeypatch)
    instance = make_application(database, renewing)
    call(database, instance, "action_deploy")
    old_token = spy.tokens[-1]
    age(database, renewing)

    database.run_cron("ir_cron_verify")

    (active,) = credentials(database, renewing, "active")
    assert active["summary"] == "Renewed by itself."
    assert len(credentials(database, renewing, "retired")) == 1
    write(database, instance, chart_version="1.9.0")
    call(database, instance, "action_deploy")
    assert database.read(instance, "delivery_state") == "applied"
    assert spy.tokens[-1] != old_token
    call(database, instance, "action_delete_from_cluster")
    database.call("admin", instance._name, "unlink", instance.ids)


def test_a_young_token_is_left_alone(database, renewing):
    database.run_cron("ir_cron_verify")

    assert credentials(database, renewing, "retired") == []


def test_without_the_right_the_old_token_stays_and_the_admin_is_told(
    database, renewing, control_plane
):
    forbid_renewal(control_plane)
    age(database, renewing)

    database.run_cron("ir_cron_verify")

    (active,) = credentials(database, renewing, "active")
    assert active["summary"] == ""
    summaries = [a["summary"] for a in activities(database, renewing)]
    assert "The token was not renewed" in summaries


def age(database, cluster):
    """Let nine tenths of the active token's life be over, by its own words."""
    database.sql(
        """UPDATE vworkspace_cluster_credential
              SET issued_at = now() AT TIME ZONE 'UTC' - interval '90 days',
                  expires_at = now() AT TIME ZONE 'UTC' + interval '10 days'
            WHERE cluster_id = %s AND state = 'active'""",
        cluster.id,
    )


def forbid_renewal(control_plane):
    control_plane.kubectl(
        *("delete", "role,rolebinding", RENEWAL_ROLE, "-n", HOME, "--ignore-not-found")
    )
    asked = ("auth", "can-i", "create", f"serviceaccounts/{ACCOUNT}")
    eventually(
        lambda: control_plane.kubectl(
            *(*asked, "--subresource=token", "-n", HOME),
            f"--as=system:serviceaccount:{HOME}:{ACCOUNT}",
            check=False,
        ).strip(),
        what="the right to renew to be gone",
        equals="no",
    )
