"""OpenRTB JSON comes back as it went in, whatever an exchange put there."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.rtb.openrtb_json import OpenRtbInvalid, from_json, loads, to_json
from protos.openrtb_pb2 import BidRequest, BidResponse

SAMPLES = Path(__file__).parents[4] / "shared/data/openrtb-samples"
NAMES = ("id", "imp", "site", "app", "ext", "test", "at", "bidfloor", "tmax", "cur", "native", "request", "metric", "x")
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
)


def same(a: Any, b: Any) -> bool:
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6))
def test_every_json_object_comes_back_exactly(value: dict[str, Any]) -> None:
    found = from_json(BidRequest, value)
    assert same(to_json(found), value)
    assert BidRequest.FromString(found.message.SerializeToString()) == found.message


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the OpenRTB samples are not on this machine")
@pytest.mark.parametrize(("name", "kind"), [("requests", BidRequest), ("responses", BidResponse)])
def test_the_published_samples_come_back_exactly(name: str, kind: Any) -> None:
    lines = gzip.decompress((SAMPLES / f"{name}.jsonl.gz").read_bytes()).splitlines()
    assert len(lines) == {"requests": 2659, "responses": 894}[name]
    for line in lines:
        value = json.loads(line)["openrtb"]
        assert same(to_json(loads(kind, json.dumps(value))), value)


def test_what_the_schema_knows_is_in_the_message() -> None:
    found = from_json(
        BidRequest,
        {
            "id": "1",
            "test": 1,
            "imp": [{"id": "a", "bidfloor": 2, "ext": {"gpid": "/x", "own": [1]}}, {"id": "b", "secure": 1}],
            "source": {"schain": {"complete": 1, "nodes": [{"asi": "x.example", "hp": 1}], "ver": "1.0"}},
        },
    )
    message = found.message
    assert message.test is True and message.imp[0].bidfloor == 2.0 and message.imp[1].secure
    assert message.imp[0].ext.gpid == "/x"
    assert message.source.schain.complete and message.source.schain.nodes[0].asi == "x.example"


def test_a_change_to_the_message_is_written_and_its_neighbours_kept() -> None:
    found = from_json(BidRequest, {"id": "1", "imp": [{"id": "a", "bidfloor": 1.0, "ext": {"own": {"k": None}}}]})
    found.message.imp[0].bidfloor = 2.5
    found.message.imp.add(id="b")
    assert to_json(found) == {
        "id": "1",
        "imp": [{"id": "a", "bidfloor": 2.5, "ext": {"own": {"k": None}}}, {"id": "b"}],
    }


def test_the_first_of_site_and_app_is_the_channel() -> None:
    value = {"site": {"id": "s"}, "app": {"id": "a"}}
    found = from_json(BidRequest, value)
    assert found.message.WhichOneof("distributionchannel_oneof") == "site"
    assert to_json(found) == value


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"3", b"\xff", b"[" * 100_000], ids=lambda data: repr(data[:4]))
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(OpenRtbInvalid):
        loads(BidRequest, data)
