"""A real service whose members decide by vote: one node that has begun, closed, and others that wait until they are trusted.

Not here: what members do (tests, or docs/examples/govern.sh), services that open by themselves (`support.processes`).
"""

import shutil
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from support.cluster import Identity, make_identity
from support.processes import Node, Service

MEMBERS: Final = ("member0", "member1", "member2")
USER: Final = "user0"


class VotingService(Service):
    """See `Service`; of its nodes only the first one serves until the members trust others.

    Args: constitution: A file, or None for the one that comes with the program.
    """

    def __init__(self, folder: Path, nodes: int = 3, constitution: Path | None = None) -> None:
        super().__init__(folder, nodes)
        self.identities: dict[str, Identity] = {}
        self._constitution = constitution

    def _start(self, count: int) -> None:
        for name in (*MEMBERS, USER):
            identity = self.identities[name] = make_identity(name)
            (self.folder / f"{name}_cert.pem").write_text(identity.pem)
            key = identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            (self.folder / f"{name}_privk.pem").write_bytes(key)
        self.nodes = [Node(self, number) for number in range(count)]
        first = self.nodes[0]
        constitution = "" if self._constitution is None else f'constitution = "{self._constitution}"\n'
        members = "".join(f'[[start.members]]\ncertificate = "{name}_cert.pem"\n' for name in MEMBERS)
        first.begin(f'[start]\nadmission = "vote"\n{constitution}{members}')
        first.wait_file("service_cert.pem")
        shutil.copy(first.directory / "service_cert.pem", self.certificate)
        for node in self.nodes[1:]:
            node.begin(self._joining())
