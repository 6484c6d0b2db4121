"""One changed application: deployed from Odoo, beside one `kubectl apply` process.

Ours is the wall time of the RPC call that the Deploy button makes, to its answer, by
when the outcome is stored: intent committed, object applied, outcome committed. The
rival is the wall time of `kubectl apply --server-side` of the same manifest. They take
turns, so that both meet the same machine.
"""

import json
import statistics
import subprocess
import time

from environment.control_plane_build import program

from .stack import NAMESPACE

RUNS = 100
WARM_UP = 5
MODEL = "vworkspace.application.instance"


def measure_deploy_one(stack):
    """Return the figure: p50 over RUNS changed instances, in ms."""
    instance = _create(stack)
    ours, rivals = [], []
    for number in range(WARM_UP + RUNS):
        ours.append(_deploy(stack, instance, number))
        rivals.append(_kubectl_apply(stack, instance))
    ours_p50 = statistics.median(ours[WARM_UP:]) * 1000
    rival_p50 = statistics.median(rivals[WARM_UP:]) * 1000
    return {
        "measure": "wall time from the RPC call to the stored outcome, p50",
        "ours": ours_p50,
        "rival": rival_p50,
        "rival_name": "one kubectl apply --server-side process",
        "ratio": ours_p50 / rival_p50,
        "unit": "ms",
        "runs": RUNS,
    }


def _create(stack):
    (namespace,) = stack.odoo.call(
        "vworkspace.cluster.namespace", "search", [("name", "=", NAMESPACE)]
    )
    return stack.odoo.call(
        MODEL,
        "create",
        {
            "name": "bench",
            "cluster_id": stack.cluster,
            "namespace_id": namespace,
            "catalog_id": "bench",
            "chart_url": "oci://registry.example.com/charts",
            "chart_name": "bench",
            "chart_version": "1.0.0",
        },
    )


def _deploy(stack, instance, number):
    change = {"values_yaml": f"replicas: {number}\nimage: {{tag: '{number}'}}\n"}
    stack.odoo.call(MODEL, "write", [instance], change)
    started = time.perf_counter()
    stack.odoo.call(MODEL, "action_deploy", [instance])
    seconds = time.perf_counter() - started
    (stored,) = stack.odoo.call(
        MODEL,
        "read",
        [instance],
        ["delivery_state", "intent_revision", "delivered_revision"],
    )
    if stored["delivery_state"] != "applied" or (
        stored["delivered_revision"] != number + 1
    ):
        raise RuntimeError(f"The outcome is not stored: {stored}")
    return seconds


def _kubectl_apply(stack, instance):
    (stored,) = stack.odoo.call(MODEL, "read", [instance], ["intent_manifest"])
    manifest = json.loads(stored["intent_manifest"])
    manifest["metadata"]["name"] = "rival"
    command = [program("kubectl"), "apply", "--server-side", "-f", "-"]
    environment = stack.control_plane.kubectl_environment()
    text = json.dumps(manifest)
    started = time.perf_counter()
    subprocess.run(
        command, input=text, text=True, env=environment, check=True, capture_output=True
    )
    return time.perf_counter() - started
