"""What a hundred clusters' connections take in memory, each after one request.

Each side runs in a process of its own and reports how much its resident memory grew.
The rival is the kubernetes package as it is documented: one ApiClient per cluster.
"""

import json
import subprocess
import sys

import psutil

from .stack import import_kube

CLUSTERS = 100


def measure_connection_memory(stack):
    """Return the figure: MiB for each of CLUSTERS connections."""
    plane = stack.control_plane
    given = json.dumps(
        {
            "server": plane.server,
            "ca": plane.ca_pem,
            "token": plane.service_account_token(),
        }
    )
    ours, rival = (_run(side, given) for side in ("ours", "rival"))
    return {
        "measure": f"memory of one of {CLUSTERS} clusters' connections",
        "ours": ours,
        "rival": rival,
        "rival_name": "one kubernetes ApiClient each",
        "ratio": ours / rival,
        "unit": "MiB",
        "runs": 1,
    }


def _run(side, given):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.connection_memory", side],
        input=given,
        text=True,
        check=True,
        capture_output=True,
    )
    return float(done.stdout)


def _ours(given):
    import_kube()
    from kube.connection import Connection, Settings

    settings = Settings(server=given["server"], ca_pem=given["ca"])

    def connect():
        connection = Connection(settings, token=lambda: given["token"])
        connection.request("GET", "/version")
        return connection

    return connect


def _rival(given):
    from kubernetes import client

    def connect():
        configuration = client.Configuration(host=given["server"])
        configuration.ca_cert_data = given["ca"]
        configuration.api_key = {"BearerToken": f"Bearer {given['token']}"}
        made = client.ApiClient(configuration)
        client.VersionApi(made).get_code()
        return made

    return connect


def _growth(connect):
    """Return how many MiB each of CLUSTERS connections adds, after a first one."""
    kept = [connect()]
    process = psutil.Process()
    before = process.memory_info().rss
    kept += [connect() for _number in range(CLUSTERS)]
    return (process.memory_info().rss - before) / CLUSTERS / 2**20


if __name__ == "__main__":
    chosen = _ours if sys.argv[1] == "ours" else _rival
    print(_growth(chosen(json.load(sys.stdin))))
