"""Run the simulated operator until it is told to stop (SIGTERM or Ctrl-C).

Prints one line, `operator ready`, on standard output once admission is in force and
every object was listed. The log goes to standard error.
"""

import argparse
import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

from .api import ApiError, ApiServer
from .control import ControlFile
from .engine import Engine
from .heartbeat import Heartbeat
from .webhook import Webhook

LISTED_WITHIN = 30.0  # s

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_logger = logging.getLogger("environment.operator")


def main() -> None:
    """Run as the command line says."""
    options = _parse()
    logging.basicConfig(
        level=options.log_level, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    for number in _STOP_SIGNALS:
        signal.signal(number, _stop)
    threading.excepthook = _stop_the_process

    api = ApiServer(options.kubeconfig)
    control = ControlFile(options.control)
    heartbeat = Heartbeat(api, cluster_id=options.cluster_id, control=control)
    engine = Engine(
        api,
        control=control,
        delay=options.delay,
        on_gates_changed=heartbeat.beat_soon,
    )
    webhook = Webhook(
        api,
        engine,
        cluster_id=options.cluster_id,
        control=control,
        port=options.webhook_port,
    )
    _logger.info("starting for cluster %s at %s", options.cluster_id, api.server)
    try:
        engine.start()
        heartbeat.start(engine)
        webhook.start()
        if not engine.listed.wait(LISTED_WITHIN):
            raise ApiError("the objects could not be listed in time")
        _logger.info("ready; admission listens on port %d", webhook.port)
        print("operator ready", flush=True)
        while True:
            signal.pause()
    except _Stopped:
        _logger.info("stopping")
    except ApiError as error:
        raise SystemExit(f"The simulated operator cannot start: {error}.") from None
    finally:
        engine.stop()
        webhook.stop()
    _logger.info("stopped")


class _Stopped(BaseException):
    """A signal asked the process to stop."""


def _stop(*_arguments: Any) -> None:
    """Leave whatever the main thread is doing, once."""
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise _Stopped


def _stop_the_process(failure: threading.ExceptHookArgs) -> None:
    """A thread that ends by an error ends the operator, and not in silence."""
    _logger.critical("a thread failed", exc_info=failure.exc_value)
    os.kill(os.getpid(), signal.SIGTERM)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m environment.operator", description=__doc__
    )
    parser.add_argument("--kubeconfig", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--control", type=Path, metavar="FILE", help="how to misbehave; see README.md"
    )
    parser.add_argument("--cluster-id", default="demo", metavar="ID")
    parser.add_argument(
        "--delay",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="from seeing an intent to its outcome",
    )
    parser.add_argument("--webhook-port", type=int, default=0, metavar="PORT")
    parser.add_argument(
        "--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"]
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
