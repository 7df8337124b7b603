"""The bidder of the auction benchmark: a late answer is a lost bid, an early one is bid as told."""

import asyncio
import random

import grpc.aio

from controlplane.packs.bid_shading.auction import draw_auction
from gateway.rtb.rules import MutationRule
from perf.auction import API_SHARE, RULE, Api, Bidder
from protos import artf_services_pb2_grpc


def bid(median_s: float, left_s: float) -> Bidder:
    async def story() -> Bidder:
        server = grpc.aio.server()
        artf_services_pb2_grpc.add_RTBExtensionPointServicer_to_server(Api(median_s, 0.0), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            bidder = Bidder(channel)
            rng = random.Random(3)
            for i in range(20):
                await bidder.take_part(draw_auction(rng, wave=False), str(i), left_s)
        await server.stop(None)
        return bidder

    return asyncio.run(story())


def test_an_answer_in_time_is_bid_as_told() -> None:
    tally = bid(median_s=0.0, left_s=20.0).tally
    rng = random.Random(3)
    drawn = [draw_auction(rng, wave=False) for _ in range(20)]
    bids = [max(API_SHARE * a.price, a.floor) for a in drawn]
    won = [(a, b) for a, b in zip(drawn, bids, strict=True) if b >= a.least]
    assert (tally.auctions, tally.lost_to_timeout, tally.won) == (20, 0, len(won))
    assert abs(tally.surplus - sum(a.price - b for a, b in won)) < 1e-6


def test_an_answer_too_late_and_no_time_at_all_are_lost_bids() -> None:
    for left_s in (0.01, 0.0, -1.0):
        tally = bid(median_s=60.0, left_s=left_s).tally
        assert (tally.auctions, tally.lost_to_timeout, tally.won) == (20, 20, 0)


def test_the_benchmarks_rule_is_one_the_gateway_takes() -> None:
    assert MutationRule.from_json(RULE, "rule").shade is not None
