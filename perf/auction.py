"""A bidder in auctions that end after 100 ms: what it loses to timeouts with Interlock and with a 300 ms API.

``python -m perf.auction``, or ``--gateway ADDRESS`` to bid through a gateway of your own, which ``--notices`` also
tells how every auction ended. The bidder has a worth for every impression and asks how to shade it, over gRPC with the
time that is left as its deadline. A bid whose shading does not come in time is not sent: a late answer is worth
nothing. Both services meet the same auctions at the same moments. Interlock is a real deployment with a trained
bid-shading bundle; the API is a server on this machine whose answers take a lognormal time of median 300 ms, the
order of a hosted frontier model's, and which shades every bid alike. Networks are drawn, services are measured.
"""

import argparse
import asyncio
import json
import math
import random
import secrets
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from controlplane.packs.bid_shading.auction import Auction, draw_auction
from controlplane.packs.registry import load_pack
from controlplane.training.additive import fit
from perf.deployment import Deployment, split
from perf.openloop import percentile
from perf.processes import ROOT
from perf.results import machine
from protos import artf_pb2, artf_services_pb2_grpc, rtb_pb2, rtb_pb2_grpc

NAME = "bid-shading"
TMAX_S = 0.100
OWN_S = 0.008  # of the bidder's own: parsing, targeting, budgets
NETWORK_MEDIAN_S, NETWORK_SPREAD = 0.018, 0.45
API_MEDIAN_S, API_SPREAD = 0.300, 0.25
PATH = "/seatbid/us/bid/1"  # of the only bid of every auction
API_SHARE = 0.60  # the best constant share of controlplane/packs/bid_shading/README.md
RULES: list[dict[str, Any]] = tomllib.loads(
    (ROOT / "controlplane" / "packs" / "bid_shading" / "exchange.toml").read_text("utf-8")
)["gateway"]["mutations"]


@dataclass(slots=True)
class Tally:
    """What became of one service's auctions. Money is CPM in USD, summed over auctions."""

    auctions: int = 0
    lost_to_timeout: int = 0
    unshaded: int = 0  # answered, and the price left as it was
    won: int = 0
    told: int = 0  # endings that became outcomes
    model: str = ""  # which plan and bundle answered last
    surplus: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return what is recorded."""
        times = sorted(self.latencies_ms)
        return {
            "auctions": self.auctions,
            "lost_to_timeout": self.lost_to_timeout,
            "lost_share": round(self.lost_to_timeout / max(self.auctions, 1), 4),
            "unshaded": self.unshaded,
            "won": self.won,
            "told": self.told,
            "model": self.model,
            "surplus_per_thousand": round(1000 * self.surplus / max(self.auctions, 1), 2),
            "p50_ms": round(percentile(times, 50), 2) if times else None,
            "p99_ms": round(percentile(times, 99), 2) if times else None,
        }


class Api(artf_services_pb2_grpc.RTBExtensionPointServicer):
    """A hosted model's latency, and one share for every bid."""

    def __init__(self, median_s: float = API_MEDIAN_S, spread: float = API_SPREAD) -> None:
        self._rng = random.Random(11)
        self._median_s, self._spread = median_s, spread

    async def GetMutations(self, request: artf_pb2.RTBRequest, context: Any) -> artf_pb2.RTBResponse:  # noqa: N802
        """Think, then shade."""
        await asyncio.sleep(self._median_s * math.exp(self._spread * self._rng.gauss(0, 1)))
        response = artf_pb2.RTBResponse(id=request.id)
        mutation = response.mutations.add(intent=artf_pb2.BID_SHADE, op=artf_pb2.OPERATION_REPLACE, path=PATH)
        mutation.adjust_bid.price = API_SHARE * request.bid_response.seatbid[0].bid[0].price
        return response


def question(auction: Auction, name: str, left_s: float) -> artf_pb2.RTBRequest:
    """Write an auction as a bidder's service would send it."""
    request = artf_pb2.RTBRequest(
        lifecycle=artf_pb2.LIFECYCLE_DSP_BID_RESPONSE, id=name, tmax=max(1, int(1000 * left_s))
    )
    asked = request.bid_request
    asked.id, asked.at, asked.tmax = name, 1, int(1000 * TMAX_S)
    asked.site.domain, asked.device.geo.country = auction.site, auction.country
    asked.source.pchain = auction.exchange
    asked.imp.add(id="1", bidfloor=auction.floor, tagid=auction.format)
    request.bid_response.seatbid.add(seat="us").bid.add(id="1", impid="1", price=auction.price)
    return request


class Bidder:
    """Asks one service how to shade, tallies what came of it, and tells the service how auctions ended, if wanted."""

    def __init__(self, channel: grpc.aio.Channel, *, tells: bool = False) -> None:
        self._stub = artf_services_pb2_grpc.RTBExtensionPointStub(channel)  # type: ignore[no-untyped-call]
        self._feedback = rtb_pb2_grpc.RtbServiceStub(channel) if tells else None  # type: ignore[no-untyped-call]
        self.tally = Tally()

    async def take_part(self, auction: Auction, name: str, left_s: float) -> None:
        """Bid in one auction with ``left_s`` seconds for the service."""
        self.tally.auctions += 1
        if left_s <= 0:
            self.tally.lost_to_timeout += 1
            return
        began = time.perf_counter()
        try:
            response = await self._stub.GetMutations(question(auction, name, left_s), timeout=left_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            self.tally.lost_to_timeout += 1
            return
        finally:
            self.tally.latencies_ms.append(1000 * (time.perf_counter() - began))
        shaded = [m.adjust_bid.price for m in response.mutations if m.intent == artf_pb2.BID_SHADE]
        self.tally.unshaded += not shaded
        self.tally.model = response.metadata.model_version
        bid = max(shaded[-1] if shaded else auction.price, auction.floor)
        is_won = bid >= auction.least
        if is_won:
            self.tally.won += 1
            self.tally.surplus += auction.price - bid
        if self._feedback is not None and shaded:
            receipt = await self._feedback.ReportFeedback(ending(auction, name, bid, is_won=is_won))
            self.tally.told += receipt.recorded


def ending(auction: Auction, name: str, bid: float, *, is_won: bool) -> rtb_pb2.Feedback:
    """Write the notice of an exchange that tells the minimum bid to win."""
    feedback = rtb_pb2.Feedback(id=name)
    feedback.notices.add(
        path=PATH,
        result=rtb_pb2.Notice.WON if is_won else rtb_pb2.Notice.LOST,
        price=auction.price,
        submitted=min(bid, auction.price),
        min_bid_to_win=auction.least,
    )
    return feedback


async def hold(auctions: int, rate: float, services: Sequence[Bidder], run: str, seed: int = 5) -> None:
    """Hold auctions at a constant rate; every bidder takes part in each, with the same time left."""
    rng = random.Random(seed)
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for i in range(auctions):
            network_s = NETWORK_MEDIAN_S * math.exp(NETWORK_SPREAD * rng.gauss(0, 1))
            auction = draw_auction(rng, wave=False)
            for bidder in services:
                group.create_task(bidder.take_part(auction, f"{run}-{i}", TMAX_S - OWN_S - network_s))
            await asyncio.sleep(max(0.0, began + (i + 1) / rate - time.monotonic()))


async def _measure(address: str, auctions: int, rate: float, *, tells: bool = False) -> dict[str, Tally]:
    server = grpc.aio.server()
    artf_services_pb2_grpc.add_RTBExtensionPointServicer_to_server(Api(), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    run = secrets.token_hex(4)  # a gateway remembers decisions by the auctions' names
    try:
        async with grpc.aio.insecure_channel(address) as ours, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as api:
            # Connections are made before auctions begin, as a bidder's are.
            await hold(20, rate, [Bidder(ours)], f"{run}-warm", seed=1)
            bidders = {"interlock": Bidder(ours, tells=tells), "api_300ms": Bidder(api)}
            await hold(auctions, rate, list(bidders.values()), run)
    finally:
        await server.stop(None)
    return {name: bidder.tally for name, bidder in bidders.items()}


def measure(auctions: int, rate: float) -> dict[str, Tally]:
    """Train a shader, deploy it, hold auctions."""
    pack = load_pack(NAME)
    fitted = fit(pack.task, pack.training_set(2500, 1), pack.held_out(200, 1), seed=1, analysers=pack.analysers)
    with (
        tempfile.TemporaryDirectory() as folder,
        Deployment(Path(folder), "auto", mutations=RULES, mutation_network_ms=1) as deployment,
    ):
        digest = fitted.export(pack.task, deployment.store, {"author": "trainer"})
        deployment.control.publish(split(digest, specialist=NAME))
        return asyncio.run(_measure(deployment.address, auctions, rate))


def main() -> None:
    """Measure; record what the deployment made here did, and print what anybody's did."""
    parser = argparse.ArgumentParser("python -m perf.auction", description="Bids lost to timeouts.")
    parser.add_argument("--auctions", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=50.0, help="auctions a second")
    parser.add_argument("--gateway", help="HOST:PORT of a gateway that shades bids, instead of one made here")
    parser.add_argument("--notices", action="store_true", help="tell that gateway how every auction ended")
    parser.add_argument("--out", type=Path, default=ROOT / "perf" / "results" / "auction.json")
    chosen = parser.parse_args()
    if chosen.gateway:
        tallies = asyncio.run(_measure(chosen.gateway, chosen.auctions, chosen.rate, tells=chosen.notices))
    else:
        tallies = measure(chosen.auctions, chosen.rate)
        chosen.out.write_text(json.dumps(recorded(tallies, chosen.rate), indent=1) + "\n")
    for name, tally in tallies.items():
        sys.stdout.write(f"{name}: {json.dumps(tally.to_json())}\n")


def recorded(tallies: Mapping[str, Tally], rate: float) -> dict[str, Any]:
    """Return what is kept of a run."""
    services = {name: tally.to_json() for name, tally in tallies.items()}
    return {"machine": machine(), "tmax_ms": 1000 * TMAX_S, "rate": rate, "services": services}


if __name__ == "__main__":
    main()
