"""The bidder of the auction benchmark: a late answer is a lost bid, an early one is bid as told."""

import asyncio
import random
from typing import Any

import grpc.aio

from controlplane.packs.bid_shading.auction import draw_auction
from perf.auction import API_SHARE, PATH, Api, Bidder
from protos import artf_services_pb2_grpc, rtb_pb2, rtb_pb2_grpc


class Listener(rtb_pb2_grpc.RtbServiceServicer):
    """Records every notice."""

    def __init__(self) -> None:
        self.notices: list[rtb_pb2.Notice] = []

    async def ReportFeedback(self, request: rtb_pb2.Feedback, context: Any) -> rtb_pb2.FeedbackReceipt:  # noqa: N802
        self.notices += request.notices
        return rtb_pb2.FeedbackReceipt(recorded=len(request.notices))


def bid(median_s: float, left_s: float, listener: Listener | None = None) -> Bidder:
    async def story() -> Bidder:
        server = grpc.aio.server()
        artf_services_pb2_grpc.add_RTBExtensionPointServicer_to_server(Api(median_s, 0.0), server)
        if listener is not None:
            rtb_pb2_grpc.add_RtbServiceServicer_to_server(listener, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            bidder = Bidder(channel, tells=listener is not None)
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


def test_the_gateway_is_told_how_every_shaded_auction_ended() -> None:
    listener = Listener()
    tally = bid(median_s=0.0, left_s=20.0, listener=listener).tally
    rng = random.Random(3)
    drawn = [draw_auction(rng, wave=False) for _ in range(20)]
    assert (tally.told, tally.unshaded, len(listener.notices)) == (20, 0, 20)
    for auction, notice in zip(drawn, listener.notices, strict=True):
        assert (notice.path, notice.price, notice.min_bid_to_win) == (PATH, auction.price, auction.least)
        assert (notice.result == rtb_pb2.Notice.WON) == (max(API_SHARE * auction.price, auction.floor) >= auction.least)
        assert 0 < notice.submitted <= notice.price
