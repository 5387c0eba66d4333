"""A node that joined hears others that its own ledger does not name yet."""

from typing import Any

from ledgerd.apps.logging import app
from ledgerd.enclave.consensus.core import Role
from ledgerd.enclave.consensus.messages import ProposeVote
from support.cluster import Cluster, Host


def serving(host: Host) -> Any:
    return host.enclave._serving


def joins_without(cluster: Cluster, name: str, apart: Host) -> Host:
    """A node that joins while another one is cut off from all others, and stays so."""
    cluster.cut = lambda a, b: (a is apart) is not (b is apart)
    for stream in list(apart.streams):
        cluster.close_stream(apart, stream)
    joined = cluster.join(name, "n0")
    cluster.until(lambda: joined.notices.get("open") == "yes")
    return joined


def test_who_joined_before_its_primary_did_gets_the_ledger_from_it() -> None:
    cluster = Cluster(app)
    cluster.start(3)
    late = cluster.join("n3", "n0")
    cluster.until(lambda: serving(late) is not None)
    assert serving(late)._consensus.last_seqno == 0, "it is admitted, and has read nothing"
    other = joins_without(cluster, "n4", late)
    cluster.run(0.5)

    primary = serving(cluster.hosts["n0"])._consensus
    primary._messages.append((serving(other)._consensus.node_id, ProposeVote(primary.view)))  # of all peers, this one is to lead
    cluster.until(lambda: serving(other)._consensus.role is Role.PRIMARY)
    cluster.cut = lambda a, b: False
    cluster.run(2.0)
    assert serving(late)._consensus.last_seqno == serving(other)._consensus.last_seqno


def test_who_joined_first_gives_its_vote_to_who_joined_later() -> None:
    """Of five nodes two are gone, and of the three that are left the first to join knows nobody but the last, and has read nothing."""
    cluster = Cluster(app)
    cluster.start(3)
    late = cluster.join("n3", "n0")
    cluster.until(lambda: serving(late) is not None)
    other = joins_without(cluster, "n4", late)
    cluster.cut = lambda a, b: late in (a, b) and other not in (a, b)
    cluster.run(0.5)
    assert serving(late)._consensus.last_seqno == 0, "the primary cannot reach it"
    cluster.kill(cluster.hosts["n0"])
    cluster.kill(cluster.hosts["n1"])
    cluster.until(lambda: serving(other)._consensus.role is Role.PRIMARY)


def test_who_lags_gives_its_vote_to_who_joined_meanwhile() -> None:
    """Of four nodes one is gone, and the one that lags reaches only the newcomer, of which it has read nothing."""
    cluster = Cluster(app)
    first, _, lags = cluster.start(3)
    other = joins_without(cluster, "n3", lags)
    cluster.cut = lambda a, b: lags in (a, b) and other not in (a, b)
    cluster.run(0.1)
    cluster.kill(first)
    cluster.until(lambda: serving(other)._consensus.role is Role.PRIMARY)


def test_the_ledger_says_where_a_node_listens_whatever_it_says_itself() -> None:
    cluster = Cluster(app)
    first, second = cluster.start(2)
    dialling, node_id = serving(first)._dialling, serving(second)._keys.id
    dialling._hear(node_id, "elsewhere:1")
    assert dialling.address_of(node_id) == "n1.peer:9002"
    dialling._addresses.clear()
    dialling._hear(node_id, "elsewhere:1")
    assert dialling.address_of(node_id) == "elsewhere:1", "nothing else is known of it"
    serving(first)._governance_changed()
    assert dialling.address_of(node_id) == "n1.peer:9002"
