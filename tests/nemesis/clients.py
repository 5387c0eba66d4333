"""The load: clients of the SDK that write, remove and read a few keys, and record what they were told.

Keys change every few seconds, so that a request of unknown fate, which concerns its key for ever, does not make the search for an order
long. Every value is written once, so whoever reads it knows who wrote it.
"""

import random
import threading
import time
from typing import Final

from ledgerd.ledger.errors import LedgerdError
from ledgerd.network.client import Budget, Client
from ledgerd.network.client.errors import OutcomeUnknown, RequestRefused, RetryBudgetExhausted, TransactionInvalid
from support.histories import Call, History, Outcome

KEYS: Final = 4
EPOCH_SECONDS: Final = 3.0
PAUSE_SECONDS: Final = 0.01
BUDGET: Final = Budget(seconds=4.0, attempt_seconds=2.0)
PATH: Final = "/app/public/records/"


class Workload:
    """Clients in threads of their own; a context manager that ends them.

    Attributes:
        history: What they have seen so far.
        problems: What no client should ever meet: an error that is none of the SDK's, a receipt that does not verify.
    """

    def __init__(self, urls: list[str], certificate: str, clients: int, seed: int) -> None:
        self.history = History()
        self.problems: list[str] = []
        self.committed = 0
        self._urls = urls
        self._certificate = certificate
        self._stopping = threading.Event()
        self._began = time.monotonic()
        self._threads = [threading.Thread(target=self._run, args=(number, seed)) for number in range(clients)]

    def __enter__(self) -> "Workload":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def now(self) -> float:
        """The clients' clock."""
        return time.monotonic() - self._began

    def learn(self, url: str) -> None:
        """A node has joined; clients that begin anew know it."""
        self._urls.append(url)

    def forget(self, url: str) -> None:
        """A node has left for good."""
        self._urls.remove(url)

    def _run(self, number: int, seed: int) -> None:
        choose = random.Random(f"{seed} {number}")
        name = f"client {number}"
        count = 0
        try:
            while not self._stopping.is_set():
                urls = list(self._urls)
                choose.shuffle(urls)
                with Client(urls, service_certificate=self._certificate, budget=BUDGET) as client:
                    # Now and then begin anew: another first node, another connection.
                    for _ in range(choose.randrange(20, 200)):
                        if self._stopping.wait(PAUSE_SECONDS * choose.random()):
                            break
                        count += 1
                        self._one(client, choose, name, f"{number}.{count}")
        except LedgerdError as error:
            self.problems.append(f"{name}: {type(error).__name__}: {error}")
        except Exception as error:  # a thread that ends in silence would hide it
            self.problems.append(f"{name}: unexpected {type(error).__name__}: {error}")

    def _one(self, client: Client, choose: random.Random, name: str, token: str) -> None:
        key = f"k{int(self.now() / EPOCH_SECONDS)}-{choose.randrange(KEYS)}"
        node = client.nodes[0]
        kind = choose.random()
        if kind < 0.5:
            self._write(client, name, node, key, token, receipt=choose.random() < 0.1)
        elif kind < 0.6:
            self._remove(client, name, node, key)
        else:
            self._read(client, name, node, key, committed=kind < 0.85)
        if choose.random() < 0.05:
            self._look(client, choose)

    def _write(self, client: Client, name: str, node: str, key: str, token: str, *, receipt: bool) -> None:
        call = self.history.invoke(name, self.now(), node, writes={key: token}, key=token, token=token)
        try:
            answer = client.submit("PUT", PATH + key, token, headers={"content-type": "text/plain"}, receipt=receipt)
        except (OutcomeUnknown, TransactionInvalid, RetryBudgetExhausted, RequestRefused) as error:
            self._failed(call, error)
        else:
            self.committed += 1
            call.end(Outcome.COMMITTED, self.now(), transaction=answer.transaction_id, receipt=answer.receipt)

    def _remove(self, client: Client, name: str, node: str, key: str) -> None:
        call = self.history.invoke(name, self.now(), node, writes={key: None})
        try:
            answer = client.submit("DELETE", PATH + key)
        except RequestRefused as error:
            if error.status != 404:
                self._failed(call, error)
                return
            call.writes.clear()  # it only looked; at what is not said to be committed
            call.end(Outcome.REFUSED, self.now())
        except (OutcomeUnknown, TransactionInvalid, RetryBudgetExhausted) as error:
            self._failed(call, error)
        else:
            call.end(Outcome.COMMITTED, self.now(), transaction=answer.transaction_id)

    def _read(self, client: Client, name: str, node: str, key: str, *, committed: bool) -> None:
        call = self.history.invoke(name, self.now(), node)
        outcome = Outcome.COMMITTED if committed else Outcome.EXECUTED
        try:
            answer = client.get(PATH + key, committed=committed)
        except RequestRefused as error:
            if error.status != 404:
                self._failed(call, error)
                return
            # The SDK's error says nothing of the id, and so not whether it was confirmed: the key was absent, at some time.
            call.end(Outcome.REFUSED, self.now())
        except (OutcomeUnknown, RetryBudgetExhausted) as error:
            self._failed(call, error)
        else:
            call.end(outcome, self.now(), transaction=answer.transaction_id, reads={key: answer.text})

    def _look(self, client: Client, choose: random.Random) -> None:
        """Ask for the status of an earlier transaction, and now and then for its receipt."""
        known = [call for call in self.history.calls[-200:] if call.transaction is not None and call.writes]
        if not known:
            return
        call = choose.choice(known)
        assert call.transaction is not None
        name = "{}.{}".format(*call.transaction)
        asked = self.now()
        try:
            status = client.status(name)
            # Which node it was, the SDK does not say; a name of its own claims nothing about what one node says twice.
            self.history.saw(f"some node, {asked:g}", asked, self.now(), call.transaction, status)
            if call.outcome is Outcome.COMMITTED and choose.random() < 0.3:
                self.history.receipts.append((call.transaction, client.receipt(name)))
        except (OutcomeUnknown, RetryBudgetExhausted, RequestRefused, TransactionInvalid):
            pass  # nobody could say

    def _failed(self, call: Call, error: LedgerdError) -> None:
        if isinstance(error, RequestRefused):
            if error.status < 500:
                self.problems.append(f"refused, for no reason of the client's: {error}")
            call.end(Outcome.REFUSED, self.now())
        elif isinstance(error, TransactionInvalid):
            call.end(Outcome.ROLLED_BACK, self.now(), transaction=error.transaction_id)
        elif isinstance(error, RetryBudgetExhausted):
            call.end(Outcome.REFUSED, self.now())
        else:
            transaction = error.transaction_id if isinstance(error, OutcomeUnknown) else None
            call.end(Outcome.UNKNOWN, self.now(), transaction=transaction)
