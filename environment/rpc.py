"""Calls to a running Odoo over the web client's own RPC, as a person's browser makes
them: through the session, the access rights and the commit of a real request.
"""

from typing import Any

import requests

from .progress import Failure

TIMEOUT = (5.0, 120.0)  # s


class Rpc:
    """A session of one user."""

    def __init__(self, url: str, database: str, *, login: str, password: str) -> None:
        """Log in.

        :param url: of the running Odoo
        :raise Failure: with Odoo's own words
        """
        self._url = url
        self._session = requests.Session()
        self._session.trust_env = False
        credentials = {"db": database, "login": login, "password": password}
        self._post("/web/session/authenticate", credentials)

    @property
    def session_id(self) -> str:
        """The cookie that makes a browser this session's."""
        return self._session.cookies["session_id"]

    def call(self, model: str, method: str, *arguments: Any) -> Any:
        """Call a public method of a model.

        :raise Failure: with Odoo's own words
        """
        return self._post(
            f"/web/dataset/call_kw/{model}/{method}",
            {"model": model, "method": method, "args": arguments, "kwargs": {}},
        )

    def _post(self, path: str, parameters: dict[str, Any]) -> Any:
        answer = self._session.post(
            f"{self._url}{path}",
            json={"jsonrpc": "2.0", "method": "call", "params": parameters},
            timeout=TIMEOUT,
        )
        answer.raise_for_status()
        content = answer.json()
        if "error" in content:
            details = content["error"].get("data", {})
            raise Failure(f"Odoo refused {path}: {details.get('message', content)}")
        return content.get("result")
