"""A service of two nodes in one process, for tests of whole applications in JavaScript: whoever asks, where, and until when.

Not here: one node without consensus (`support.javascript`), the application and how it is installed, which are each test's own.
"""

import json
from typing import Any, Final

import pytest

from ledgerd.apps.logging import app
from ledgerd.enclave.outbound import Answer
from support.cluster import Cluster, Identity
from support.jwt import ISSUER, jwk, key, token
from support.members import propose

RSA: Final = key("RSA")
BEARER: Final = f"Bearer {token(RSA, nbf=None, exp=4_000_000_000)}"


class TwoNodes:
    """Nodes n0, the primary, and n1; a user; and an issuer of tokens, once it is proposed."""

    def __init__(self) -> None:
        self.cluster = Cluster(app)
        self.cluster.start(2)
        self.cluster.run(0.3)
        self.user = self.cluster.user

    def decide(self, *actions: tuple[str, Any]) -> None:
        """Have them proposed and accepted, each by itself, and an issuer of tokens with them."""
        issuer = {"issuer": ISSUER, "auto_refresh": False, "jwks": {"keys": [jwk(RSA, "k")]}}
        for action in (*actions, ("set_jwt_issuer", issuer)):
            answer = propose(self.cluster, self.cluster.hosts["n0"], action)
            assert json.loads(answer.body)["proposalState"] == "Accepted", answer
        self.cluster.run(0.5)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = b"",
        who: Identity | None = None,
        node: str = "n0",
        kind: str = "application/json",
        **headers: str,
    ) -> Answer:
        """As a user, unless a bearer, or somebody else, asks."""
        if who is None and "authorization" not in headers:
            who = self.user
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.cluster.client(self.cluster.hosts[node], who).ask(method, f"/app{path}", data, content_type=kind, **headers)

    def commit(self, method: str, path: str, body: Any = b"", status: int = 200, **more: Any) -> Answer:
        """The same, until it is committed everywhere."""
        answer = self.ask(method, path, body, prefer="committed", **more)
        assert answer.status == status, answer
        self.cluster.run(0.3)
        return answer

    def read_whole(self, path: str, node: str) -> Any:
        """Ask again for as long as it is being read."""
        for _ in range(10):
            answer = self.ask("GET", path, node=node)
            if answer.status != 202:
                assert answer.status == 200, answer
                return json.loads(answer.body)
            assert answer.headers["retry-after"] == "1"
            self.cluster.run(1.0)
        pytest.fail("it is not there yet")
