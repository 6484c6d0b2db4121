"""`make bench`: every figure, ours beside a rival's, in one run on one machine.

Writes benchmarks/results.json and prints a table. A claim is the ratio of the
two in the same run; the absolute times say more about the machine than about us.
Name figures to measure only those: make bench ARGS="deploy-one".
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from environment.paths import CHECKOUT

from .catch_up import measure_catch_up
from .connection_memory import measure_connection_memory
from .dead_cluster import measure_dead_cluster
from .deploy_bulk import measure_deploy_bulk, measure_deploy_bulk_raw
from .deploy_one import measure_deploy_one
from .fleet_memory import measure_fleet_memory
from .ingest import measure_ingest, measure_ingest_kopf
from .list_views import measure_list_10k, measure_list_100k
from .stack import Stack
from .status_latency import measure_status_p50, measure_status_p99
from .verify_cluster import measure_verify_cluster

FIGURES = {
    "deploy-one": measure_deploy_one,
    "deploy-bulk": measure_deploy_bulk,
    "deploy-bulk-raw": measure_deploy_bulk_raw,
    "dead-cluster": measure_dead_cluster,
    "verify-cluster": measure_verify_cluster,
    "connection-memory": measure_connection_memory,
    "status-p50": measure_status_p50,
    "status-p99": measure_status_p99,
    "ingest": measure_ingest,
    "ingest-kopf": measure_ingest_kopf,
    "fleet-memory": measure_fleet_memory,
    "catch-up": measure_catch_up,
    "list-10k": measure_list_10k,
    "list-100k": measure_list_100k,
}
RESULTS = Path(__file__).with_name("results.json")


def main():
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("figure", nargs="*", choices=[[], *FIGURES], metavar="FIGURE")
    chosen = parser.parse_args().figure or list(FIGURES)
    with Stack() as stack:
        figures = [
            {"id": name, **FIGURES[name](stack)} for name in FIGURES if name in chosen
        ]
    result = {"machine": _machine(), "commit": _commit(), "figures": figures}
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    table = _table(result)
    print(f"\n{table}")


def _machine():
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.machine()}, "
        f"Python {platform.python_version()}"
    )


def _commit():
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def _table(result):
    lines = [
        f"Measured on {result['machine']}, commit {result['commit']}.",
        "",
        "| Figure | Measure | Ours | Rival | Ratio | Runs |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for figure in result["figures"]:
        lines.append(
            f"| {figure['id']} | {figure['measure']} "
            f"| {figure['ours']:.3g} {figure['unit']} "
            f"| {figure['rival']:.3g} {figure['unit']} ({figure['rival_name']}) "
            f"| {figure['ratio']:.2f} | {figure['runs']} |"
        )
    also = [
        f"- {figure['id']}: {what}: {number:.3g}"
        for figure in result["figures"]
        for what, number in figure.get("also", {}).items()
    ]
    return "\n".join([*lines, "", *also]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
