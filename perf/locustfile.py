"""Callers as they come in practice, for Locust. Two mixes, chosen by class name:

    locust -f perf/locustfile.py --headless -u 50 -r 10 -t 60s --host 127.0.0.1:8500 Bidder
    locust -f perf/locustfile.py --headless -u 20 -r 5 -t 60s --host 127.0.0.1:8500 FraudDesk
    locust -f perf/locustfile.py --headless -u 60 -r 10 -t 60s --host 127.0.0.1:8500     # both, 4 to 1

``Bidder`` asks about short texts, gives each 100 ms and comes back at once; ``FraudDesk`` asks about longer
ones, gives half a second, thinks between calls and always names the caller, so that a caller stays on one arm.
Name the specialist with INTERLOCK_SPECIALIST. Fallbacks are listed as a request of their own, ``… fallback``, so
that their share can be read. Locust waits for answers and shows what callers live through; for what a
server does at a fixed rate use ``perf.openloop``.
"""

# gRPC must be told of gevent before it opens a channel, and Locust patches everything else on import.
import grpc.experimental.gevent as grpc_gevent

grpc_gevent.init_gevent()

import os  # noqa: E402
import random  # noqa: E402
import time  # noqa: E402

import grpc  # noqa: E402
from locust import User, between, constant_throughput, task  # noqa: E402

from protos import decide_pb2, decide_pb2_grpc  # noqa: E402

SPECIALIST = os.environ.get("INTERLOCK_SPECIALIST", "brand-safety")
SUBJECTS = ("garden", "football", "election", "recipe", "crash", "casino", "holiday", "medicine", "phone", "concert")
VERBS = ("wins", "explained", "near you", "compared", "goes wrong", "for beginners", "tonight", "under review")


def sentence(words: random.Random, clauses: int) -> str:
    """Write a text of that many clauses."""
    return "; ".join(f"{words.choice(SUBJECTS)} {words.choice(VERBS)}" for _ in range(clauses))


class Caller(User):
    """One caller on a channel of its own, as a process elsewhere would be."""

    abstract = True
    budget_s = 1.0

    def on_start(self) -> None:
        """Open the channel."""
        # Without this every user of this process would share one connection.
        self.channel = grpc.insecure_channel(self.host, [("grpc.use_local_subchannel_pool", 1)])
        self.stub = decide_pb2_grpc.DecisionServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.words = random.Random()

    def on_stop(self) -> None:
        """Close it."""
        self.channel.close()

    def ask(self, name: str, text: str, routing_key: str) -> None:
        """Ask for a decision and report what became of it."""
        request = decide_pb2.DecideRequest(
            specialist=SPECIALIST, input=decide_pb2.Input(text=text), routing_key=routing_key
        )
        began = time.perf_counter()
        failure, size = None, 0
        try:
            answer = self.stub.Decide(request, timeout=self.budget_s)
            size = answer.ByteSize()
            if answer.fallback.used:
                name += " fallback"
        except grpc.RpcError as error:
            failure = error
        self.environment.events.request.fire(
            request_type="grpc",
            name=name,
            response_time=1000 * (time.perf_counter() - began),
            response_length=size,
            exception=failure,
            context={},
        )


class Bidder(Caller):
    """Auctions: short texts, 100 ms, as many as each of them can."""

    weight = 4
    budget_s = 0.1
    wait_time = constant_throughput(50)

    @task
    def bid(self) -> None:
        """Ask about the page an advertisement would stand on; every auction is another unit."""
        self.ask("bid", sentence(self.words, self.words.randint(1, 3)), "")


class FraudDesk(Caller):
    """Payments: longer texts, half a second, a known customer."""

    weight = 1
    budget_s = 0.5
    wait_time = between(0.05, 0.5)

    @task
    def check(self) -> None:
        """Ask about a payment; few customers pay often, most rarely."""
        customer = int(self.words.paretovariate(1.2)) % 100_000
        self.ask("payment", sentence(self.words, self.words.randint(4, 8)), f"customer-{customer}")
