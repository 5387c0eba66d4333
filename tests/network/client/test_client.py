"""The two clients against nodes in threads: real TLS, real receipts, failures on purpose."""

import base64
import hashlib
import inspect
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import anyio
import pytest

from ledgerd.ledger import entry, signature
from ledgerd.ledger.errors import ConfigurationError, IntegrityError
from ledgerd.ledger.receipt import Leaf, build_cose
from ledgerd.network.client import (
    Answer,
    AsyncClient,
    Budget,
    Call,
    Client,
    ClientError,
    OutcomeUnknown,
    RequestRefused,
    RetryBudgetExhausted,
    ServiceIdentityMismatch,
)
from support.fake_service import CUT, FakeAnswer, FakeNode, FakeRequest, FakeService, error
from support.ledgers import Service

T = TypeVar("T")
ASYNCHRONOUS_NAMES = {"close": "aclose", "__enter__": "__aenter__", "__exit__": "__aexit__"}
PATIENT = Budget(seconds=120, attempts=20, attempt_seconds=60)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[FakeService]:
    with FakeService(tmp_path) as service:
        yield service


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def client(service: FakeService, budget: Budget = PATIENT) -> Client:
    return Client(service.urls, service_certificate=service.certificate_file, budget=budget)


def async_client(service: FakeService, *, pipelined: bool = False) -> AsyncClient:
    return AsyncClient(service.urls, service_certificate=service.certificate_file, budget=PATIENT, pipelined=pipelined)


def executing_then_cutting(node: FakeNode) -> Callable[[FakeRequest], FakeAnswer | None]:
    """The node executes, and then the connection breaks: the client cannot know."""

    def behaviour(request: FakeRequest) -> FakeAnswer | None:
        if request.method == "PUT":
            node.service.answer(request)
            return CUT
        return None

    return behaviour


def test_a_submission_is_executed_once_though_every_first_answer_is_lost(service: FakeService) -> None:
    service.nodes[0].behaviour = executing_then_cutting(service.nodes[0])
    with client(service) as c:
        answer = c.submit("PUT", "/app/records/1", "value")
    assert answer.committed
    assert str(answer.transaction_id) == "2.3"
    assert service.executed == {("PUT", "/app/records/1"): 1}


def test_nodes_that_know_no_preferences_are_asked_whether_it_is_committed(service: FakeService) -> None:
    service.knows_prefer = False
    with client(service) as c:
        service.pending = 2
        answer = c.submit("PUT", "/app/records/1", "value")
        assert (answer.committed, service.pending) == (True, -1)
        service.pending = 3
        many = dict(c.submit_many([Call("PUT", f"/app/records/{number}", b"value") for number in range(20)]))
        assert service.pending < 0
    assert [isinstance(many[number], Answer) and many[number].committed for number in range(20)] == [True] * 20  # type: ignore[union-attr]
    assert set(service.executed.values()) == {1, 2}, "record 1 was written twice, by two submissions"


def test_without_idempotency_the_same_loss_is_an_unknown_outcome(service: FakeService) -> None:
    service.nodes[0].behaviour = executing_then_cutting(service.nodes[0])
    with client(service) as c, pytest.raises(OutcomeUnknown):
        c.submit("PUT", "/app/records/1", "value", idempotent=False)
    assert service.executed == {("PUT", "/app/records/1"): 1}


def test_a_dead_node_is_passed_over(service: FakeService) -> None:
    service.nodes[0].stop()
    with client(service) as c:
        assert c.submit("PUT", "/app/records/1", "value").status == 204


def test_no_node_at_all_ends_within_the_budget(service: FakeService) -> None:
    for node in service.nodes:
        node.stop()
    with client(service, Budget(seconds=3)) as c, pytest.raises(RetryBudgetExhausted):
        c.submit("PUT", "/app/records/1", "value", idempotent=False)


def test_a_refusal_keeps_its_code(service: FakeService) -> None:
    with client(service) as c, pytest.raises(RequestRefused) as caught:
        c.get("/app/records/absent")
    assert (caught.value.status, caught.value.error_code) == (404, "ResourceNotFound")


def test_a_node_of_another_service_gets_no_request(tmp_path: Path, service: FakeService) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    with FakeService(folder, nodes=1) as other:
        with (
            Client(other.urls, service_certificate=service.certificate_file, budget=PATIENT) as c,
            pytest.raises(ServiceIdentityMismatch, match=other.urls[0]),
        ):
            c.submit("PUT", "/app/records/1", "secret")
        with Client([*other.urls, *service.urls], service_certificate=service.certificate_file, budget=PATIENT) as c:
            assert c.submit("PUT", "/app/records/1", "secret").committed
        assert [index for index, _ in c.submit_many([Call("PUT", "/app/records/2")])] == [0]
        assert other.nodes[0].requests == []


def test_a_name_that_the_certificate_does_not_bear_is_refused(service: FakeService) -> None:
    url = service.urls[0].replace("127.0.0.1", "localhost")
    with Client(url, service_certificate=service.certificate_file, budget=PATIENT) as c, pytest.raises(ServiceIdentityMismatch):
        c.get("/node/commit")


def receipt_of(ledger: Service, seqno: int) -> bytes:
    """A real COSE receipt of an entry that the last signature covers."""
    signed = ledger.signatures[-1]
    record = signature.parse(entry.read_public(ledger.entries[signed - 1]).writes)
    assert record is not None
    assert record.cose is not None
    data = ledger.entries[seqno - 1]
    claims = entry.read_public(data).claims_digest or bytes(32)
    leaf = Leaf(hashlib.sha256(data).digest(), ledger.sealer.commit_evidence(ledger.view, seqno), claims)
    return build_cose(record.cose, leaf, ledger.span(signed).path(seqno))


@pytest.fixture
def ledger() -> Service:
    ledger = Service()
    ledger.genesis()
    ledger.write({"records": {b"1": b"value"}})
    ledger.write({"records": {b"2": b"value"}})
    ledger.sign()
    return ledger


def test_a_receipt_is_verified_on_arrival(tmp_path: Path, ledger: Service) -> None:
    good, other = receipt_of(ledger, 3), receipt_of(ledger, 4)
    bad = bytearray(good)
    bad[-1] ^= 1
    with FakeService(tmp_path, nodes=1, ledger=ledger) as service, client(service) as c:

        def carrying(receipt: bytes) -> FakeAnswer:
            said = {"x-ms-ccf-transaction-id": "2.3", "preference-applied": "committed"}
            return FakeAnswer(204, {**said, "x-ledgerd-receipt": base64.b64encode(receipt).decode()})

        carried = [good]
        service.nodes[0].behaviour = lambda request: carrying(carried[-1]) if request.method == "PUT" else None
        answer = c.submit("PUT", "/app/records/1", "value", receipt=True)
        assert answer.receipt == good
        assert service.nodes[0].requests[-1].headers["prefer"].startswith("committed, receipt")
        for wrong in (bytes(bad), other):
            carried.append(wrong)
            with pytest.raises(IntegrityError):
                c.submit("PUT", "/app/records/1", "value", receipt=True)


def test_a_receipt_is_waited_for_and_verified(tmp_path: Path, ledger: Service) -> None:
    good = receipt_of(ledger, 3)
    answers = [FakeAnswer(202, {"retry-after": "3"}, b"later"), error(404, "TransactionPendingOrUnknown"), FakeAnswer(200, {}, good)]
    with FakeService(tmp_path, nodes=1, ledger=ledger) as service, client(service) as c:
        # Now and then a client asks for the nodes, too.
        service.nodes[0].behaviour = lambda request: answers.pop(0) if request.path.startswith("/node/receipt") else None
        assert c.receipt("2.3") == good
        service.nodes[0].behaviour = lambda request: FakeAnswer(200, {}, good)
        with pytest.raises(IntegrityError):
            c.receipt("2.4")
        assert str(c.verify_receipt(good).transaction_id) == "2.3"


def test_threads_share_a_client(service: FakeService) -> None:
    answers: list[Answer] = []
    with client(service) as c:
        threads = [threading.Thread(target=lambda i=i: answers.append(c.submit("PUT", f"/app/records/{i}"))) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({str(answer.transaction_id) for answer in answers}) == 8


@pytest.mark.parametrize("path", ["app/records/1", "/app/a b", "/app/\r\nx: y", "/app/\u00e4"])
def test_a_path_that_is_none_is_refused_before_it_is_sent(service: FakeService, path: str) -> None:
    with client(service) as c, pytest.raises(ConfigurationError):
        c.submit("PUT", path)


def test_certificates_that_cannot_be_used_are_a_configuration_error(service: FakeService, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.pem"):
        Client(service.urls, service_certificate=tmp_path / "absent.pem")
    with pytest.raises(ConfigurationError, match=r"no_key\.pem"):
        Client(service.urls, service_certificate=service.certificate_file, credentials=(service.certificate_file, tmp_path / "no_key.pem"))


def run(backend: str, function: Callable[[], Awaitable[T]]) -> T:
    return anyio.run(function, backend=backend)


@pytest.mark.parametrize("pipelined", [False, True])
def test_the_asynchronous_client_keeps_the_same_promises(service: FakeService, backend: str, pipelined: bool) -> None:
    service.nodes[0].behaviour = executing_then_cutting(service.nodes[0])

    async def main() -> Answer:
        async with async_client(service, pipelined=pipelined) as c:
            assert await c.status("2.2") == "Committed"
            await c.wait_for_commit("2.2")
            with pytest.raises(RequestRefused):
                await c.get("/app/records/absent")
            return await c.submit("PUT", "/app/records/1", "value")

    assert run(backend, main).committed
    assert service.executed == {("PUT", "/app/records/1"): 1}


@pytest.mark.parametrize("pipelined", [False, True])
def test_many_tasks_share_a_client(service: FakeService, backend: str, pipelined: bool) -> None:
    async def main() -> list[Answer]:
        answers: list[Answer] = []
        async with async_client(service, pipelined=pipelined) as c:

            async def one(i: int) -> None:
                answers.append(await c.submit("PUT", f"/app/records/{i}", str(i)))

            async with anyio.create_task_group() as tasks:
                for i in range(40):
                    tasks.start_soon(one, i)
        return answers

    answers = run(backend, main)
    assert len({str(answer.transaction_id) for answer in answers}) == 40
    assert sum(service.executed.values()) == 40


def test_a_cancelled_request_leaves_the_others_on_its_connection_alone(service: FakeService, backend: str) -> None:
    gate = threading.Event()

    def slow(request: FakeRequest) -> FakeAnswer | None:
        if request.path.startswith("/app/slow"):
            gate.wait(120)
            return FakeAnswer(200, {}, b"late")
        return None

    for node in service.nodes:
        node.behaviour = slow

    async def main() -> bytes:
        async with async_client(service, pipelined=True) as c:
            late: list[bytes] = []

            async def patient() -> None:
                late.append((await c.get("/app/slow/1")).body)

            async with anyio.create_task_group() as tasks:
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as doomed:
                        doomed.start_soon(c.get, "/app/slow/0")  # reads for all, as it came first
                        await anyio.wait_all_tasks_blocked()
                        tasks.start_soon(patient)
                        await anyio.wait_all_tasks_blocked()
                        scope.cancel()
                gate.set()
            return late[0]

    assert run(backend, main) == b"late"


def test_many_calls_have_one_result_each_though_nodes_break(service: FakeService, backend: str) -> None:
    seen = 0

    def breaking(request: FakeRequest) -> FakeAnswer | None:
        nonlocal seen
        seen += 1
        if seen % 97 == 0:
            service.answer(request)
            return CUT
        return None

    for node in service.nodes:
        node.behaviour = breaking
    calls = [Call("PUT", f"/app/records/{i}", b"v") for i in range(300)]

    async def main() -> list[tuple[int, Answer | ClientError]]:
        async with async_client(service) as c:
            return [result async for result in c.submit_many(calls, window=16)]

    results = run(backend, main)
    assert sorted(index for index, _ in results) == list(range(300))
    assert all(isinstance(answer, Answer) for _, answer in results)
    with client(service) as c:
        assert len(list(c.submit_many(calls, window=16))) == 300
    assert set(service.executed.values()) == {2}


def test_a_node_that_does_not_speak_it_is_no_reason_to_wait(service: FakeService) -> None:
    """A CCF node has no `ledgerd/1`; the error says so."""
    for node in service.nodes:
        node._context.set_alpn_protocols(["http/1.1"])
    with client(service, Budget(seconds=3)) as c:
        results = list(c.submit_many([Call("PUT", "/app/records/1")]))
    assert isinstance(results[0][1], RetryBudgetExhausted)
    assert "ledgerd/1" in str(results[0][1])


def methods(face: type) -> dict[str, list[inspect.Parameter]]:
    """Public methods and the constructor, with their parameters; the switch that only the asynchronous client has is left out."""
    names = [
        name for name in dir(face) if not name.startswith("_") or name in ("__init__", "__enter__", "__exit__", "__aenter__", "__aexit__")
    ]
    found = {name: inspect.signature(getattr(face, name)) for name in names if callable(getattr(face, name))}
    return {name: [p for p in signature.parameters.values() if p.name != "pipelined"] for name, signature in found.items()}


def test_the_two_clients_have_the_same_methods_with_the_same_parameters() -> None:
    expected = {ASYNCHRONOUS_NAMES.get(name, name): parameters for name, parameters in methods(Client).items()}
    assert methods(AsyncClient) == expected
    assert {"submit", "submit_many", "receipt", "trust", "aclose"} <= expected.keys()


def test_threads_that_only_pipeline_load_no_library_for_http_tasks_or_attestation(service: FakeService) -> None:
    program = """
import sys
from ledgerd.network.client import Answer, Call, Client
with Client(sys.argv[2:], service_certificate=sys.argv[1]) as client:
    [(index, answer)] = client.submit_many([Call("PUT", "/app/records/1", b"v")])
assert isinstance(answer, Answer) and answer.committed, answer
print(*sorted({"httpx", "httpcore", "trio", "anyio", "ledgerd.network.client.trust"} & sys.modules.keys()))
"""
    command = [sys.executable, "-c", program, str(service.certificate_file), *service.urls]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert (done.stdout, done.stderr) == ("\n", "")
    assert service.executed == {("PUT", "/app/records/1"): 1}
