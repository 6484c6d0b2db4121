"""A client of a running Odoo server, as its web client is one."""

import itertools

import requests

TIMEOUT = (5.0, 60.0)  # s: to connect, between bytes


class OdooClient:
    """One user's session."""

    def __init__(self, url, database):
        self._url = url
        self._database = database
        self._numbers = itertools.count(1)
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy in front of 127.0.0.1

    def log_in(self, login, password):
        self._post(
            "/web/session/authenticate",
            {"db": self._database, "login": login, "password": password},
        )

    def call(self, model, method, *arguments, **keywords):
        """Call a public method and return its result.

        :raise RuntimeError: with the server's own words
        """
        return self._post(
            f"/web/dataset/call_kw/{model}/{method}",
            {
                "model": model,
                "method": method,
                "args": arguments,
                "kwargs": keywords,
            },
        )

    def _post(self, path, parameters):
        body = {"jsonrpc": "2.0", "method": "call", "params": parameters}
        response = self._session.post(
            f"{self._url}{path}",
            json={**body, "id": next(self._numbers)},
            timeout=TIMEOUT,
        )
        response.raise_for_status()
        answer = response.json()
        if "error" in answer:
            raise RuntimeError(answer["error"]["data"]["message"])
        return answer["result"]
