"""A way to a server that tests can close, stall or let go dead, as networks do."""

import contextlib
import select
import socket
import threading
from socketserver import BaseRequestHandler, ThreadingTCPServer


class Gate(ThreadingTCPServer):
    """Forwards what comes to 127.0.0.1 to a server there, while it is open."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, target):
        """
        :param target: host and port of the server
        """
        super().__init__(("127.0.0.1", 0), _Passage)
        self.target = target
        self.url = f"https://127.0.0.1:{self.server_address[1]}"
        self.is_closed = False
        self.flows = threading.Event()
        self.flows.set()
        self.passages = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self):
        """End what is under way, and hang up on whoever comes."""
        self.is_closed = True
        for passage in self.passages.copy():
            passage.end()

    def open(self):
        self.is_closed = False
        self.flows.set()

    def stall(self):
        """Hold back all bytes, also of those who come: no end, no error."""
        self.flows.clear()

    def lose(self):
        """Forward nothing more of what is under way, and do not tell; others pass."""
        for passage in self.passages.copy():
            passage.is_lost = True

    def handle_error(self, request, client_address):
        """Connections that end suddenly are what this is for."""

    def stop(self):
        self.shutdown()
        self.open()
        self.close()
        self.server_close()
        self._thread.join(5)


class _Passage(BaseRequestHandler):
    is_lost = False

    def setup(self):
        self.over = threading.Event()

    def handle(self):
        if self.server.is_closed:
            return
        self.server.passages.add(self)
        try:
            with socket.create_connection(self.server.target) as target:
                self._pump(target)
        finally:
            self.server.passages.discard(self)

    def end(self):
        self.over.set()
        with contextlib.suppress(OSError):
            self.request.shutdown(socket.SHUT_RDWR)

    def _pump(self, target):
        other = {self.request: target, target: self.request}
        while True:
            for sock in select.select(other, [], [])[0]:
                content = sock.recv(65_536)
                self.server.flows.wait()
                if self.is_lost:
                    self.over.wait()  # an end is not told either
                if not content:
                    return
                other[sock].sendall(content)
