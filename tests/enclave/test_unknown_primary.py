"""A node that joined hears a primary that its own ledger does not name yet."""

from typing import Any

from ledgerd.apps.logging import app
from ledgerd.enclave.consensus.core import Role
from support.cluster import Cluster, Host


def serving(host: Host) -> Any:
    return host.enclave._serving


def test_who_joined_before_its_primary_did_gets_the_ledger_from_it() -> None:
    cluster = Cluster(app)
    cluster.start(3)
    late = cluster.join("n3", "n0")
    cluster.until(lambda: serving(late) is not None)
    assert serving(late)._consensus.last_seqno == 0, "it is admitted, and has read nothing"
    cluster.cut = lambda a, b: (a is late) is not (b is late)
    for stream in list(late.streams):
        cluster.close_stream(late, stream)
    other = cluster.join("n4", "n0")
    cluster.until(lambda: other.notices.get("open") == "yes")
    cluster.run(0.5)

    def leads() -> bool:
        for host in cluster.hosts.values():
            if host is not other and host is not late and serving(host)._consensus.role is Role.PRIMARY:
                serving(host)._consensus.propose_successor()
        return bool(serving(other)._consensus.role is Role.PRIMARY)

    cluster.until(leads)
    cluster.cut = lambda a, b: False
    cluster.run(2.0)
    assert serving(late)._consensus.last_seqno == serving(other)._consensus.last_seqno
