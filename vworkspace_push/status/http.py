"""The watch worker's own small HTTP server: is it alive, is it ready, what it counts.

It only reads, knows three paths and says nothing of what a record holds. It bounds how
long and how many clients can keep it busy, as others may reach it in a cluster.
"""

import logging
import socketserver
import threading
from http.server import BaseHTTPRequestHandler

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from . import metrics

_logger = logging.getLogger(__name__)

CLIENT_TIMEOUT = 5.0  # s without a byte from a client
CLIENTS = 8  # served at the same time; a further one is cut off
PLAIN_TEXT = "text/plain; charset=utf-8"


class StatusServer(socketserver.ThreadingTCPServer):
    """Serves /healthz, /readyz and /metrics of the workers in this process."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, interface, port, workers, *, refresh):
        """
        :param list workers: a DatabaseWorker for each database
        :param refresh: called before the figures are read
        :raise OSError: the address is taken or not ours
        """
        self.workers = workers
        self.refresh = refresh
        self._places = threading.BoundedSemaphore(CLIENTS)
        super().__init__((interface, port), _Handler)

    def start(self):
        threading.Thread(
            target=self.serve_forever, name="vworkspace-metrics", daemon=True
        ).start()

    def process_request(self, request, client_address):
        if not self._places.acquire(blocking=False):
            return self.shutdown_request(request)
        return super().process_request(request, client_address)

    def process_request_thread(self, request, client_address):
        try:
            return super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request, client_address):
        _logger.debug("a client of the metrics went away")


class _Handler(BaseHTTPRequestHandler):
    server_version = "vworkspace_watch"
    sys_version = ""

    def setup(self):
        self.timeout = CLIENT_TIMEOUT
        return super().setup()

    def do_GET(self):
        answers = {
            "/healthz": lambda: self._answer_for_all("is_alive"),
            "/readyz": lambda: self._answer_for_all("is_ready"),
            "/metrics": self._answer_metrics,
        }
        answer = answers.get(self.path.partition("?")[0])
        if answer is None:
            self._send(404, "Try /healthz, /readyz or /metrics.\n")
        else:
            answer()

    def _answer_for_all(self, question):
        missing = [w.dbname for w in self.server.workers if not getattr(w, question)()]
        if missing:
            self._send(503, f"not yet, or not any more: {', '.join(missing)}\n")
        else:
            self._send(200, "ok\n")

    def _answer_metrics(self):
        self.server.refresh()
        body = generate_latest(metrics.REGISTRY)
        self._send(200, body.decode(), content_type=CONTENT_TYPE_LATEST)

    def _send(self, status, text, *, content_type=PLAIN_TEXT):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args):
        """Requests every few seconds are no news."""
