"""A stranger gets nothing, a caller gets what is theirs, and what is not theirs is not there."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import CallerNotAllowed, CallerUnknown, UnknownSpecialist
from gateway.rpc.access import Scoped, with_access
from gateway.rpc.health import HealthState
from gateway.rpc.methods import build_methods
from gateway.rpc.wire import Call
from gateway.settings import GatewaySettings
from protos import decide_pb2, oip_pb2
from protos.contract.access import LOOK_S, SCHEMA, Access, AccessFile
from protos.contract.digest import digest_bytes
from protos.contract.fields import FieldInvalid
from tests.gateway.rpc.fake import FakeGateway
from tests.tasks import TASK

SPIFFE = "spiffe://corp/bidder"
GENERATE = "/interlock.v1.DecisionService/Generate"
DECIDE = "/interlock.v1.DecisionService/Decide"
OUTCOME = "/interlock.v1.DecisionService/ReportOutcome"
INFER = "/inference.GRPCInferenceService/ModelInfer"
READY = "/inference.GRPCInferenceService/ModelReady"


def principal(name: str, *roles: str, specialists: tuple[str, ...] = (TASK.name,)) -> dict[str, Any]:
    token = digest_bytes(name.encode())
    return {"name": name, "roles": list(roles), "specialists": list(specialists), "tokens": [token], "identities": []}


ACCESS = Access.from_json(
    {
        "schema": SCHEMA,
        "principals": [
            principal("bidder", "caller"),
            principal("labels", "labeller"),
            principal("fraud-team", "caller", specialists=("fraud",)),
            {"name": "mesh", "roles": ["caller"], "specialists": ["*"], "identities": [SPIFFE]},
        ],
    }
)


class Front:
    def __init__(self) -> None:
        self.access = ACCESS
        self.gateway = FakeGateway()
        self.refused: Counter[str] = Counter()

        def note(reason: str) -> None:
            self.refused[reason] += 1

        def build(served: Any) -> Any:
            return build_methods(served, HealthState(), version="1")

        methods = with_access(
            build(self.gateway), lambda: self.access, note, lambda p: build(Scoped(self.gateway, p, note))
        )
        self.methods = {method.path: method for method in methods}

    def ask(self, path: str, request: Any, token: str = "", identity: str = "") -> bytes:
        metadata = {"authorization": f"Bearer {token}"} if token else {}
        call = Call(path, metadata, identity=identity)
        handler: Any = self.methods[path].handler
        answer: bytes = asyncio.run(handler(call, request.SerializeToString()))
        return answer


def question(specialist: str = TASK.name) -> decide_pb2.DecideRequest:
    return decide_pb2.DecideRequest(specialist=specialist, input=decide_pb2.Input(text="hello"))


def test_a_stranger_is_told_the_same_whatever_they_ask_for() -> None:
    front, said = Front(), set()
    for specialist in (TASK.name, "fraud", "no such"):
        for token in ("", "guess", "x" * 10_000):
            with pytest.raises(CallerUnknown) as refused:
                front.ask(DECIDE, question(specialist), token)
            said.add(str(refused.value))
    assert len(said) == 1 and front.refused == {"caller": 9}
    assert front.gateway.asked == []


def test_a_caller_is_known_by_token_or_by_certificate() -> None:
    front = Front()
    front.ask(DECIDE, question(), "bidder")
    front.ask(DECIDE, question(), identity=SPIFFE)
    assert len(front.gateway.asked) == 2
    with pytest.raises(CallerUnknown):
        front.ask(DECIDE, question(), identity=SPIFFE + "/other")


def test_a_specialist_of_somebody_else_is_one_that_does_not_exist() -> None:
    front = Front()
    with pytest.raises(UnknownSpecialist) as theirs:
        front.ask(DECIDE, question("fraud"), "bidder")
    with pytest.raises(UnknownSpecialist) as nobodys:
        front.ask(DECIDE, question("freud"), "bidder")
    assert str(theirs.value).replace("fraud", "freud") == str(nobodys.value)
    with pytest.raises(UnknownSpecialist):
        front.ask(INFER, oip_pb2.ModelInferRequest(model_name=TASK.name), "fraud-team")
    known = oip_pb2.ModelReadyResponse.FromString(front.ask(READY, oip_pb2.ModelReadyRequest(name=TASK.name), "bidder"))
    assert known.ready
    assert front.refused["specialist"] >= 3


def test_whoever_calls_does_not_label_and_whoever_labels_does_not_call() -> None:
    front = Front()
    outcome = decide_pb2.ReportOutcomeRequest(specialist=TASK.name, decision_id="d", label=TASK.labels[0])
    with pytest.raises(CallerNotAllowed):
        front.ask(OUTCOME, outcome, "bidder")
    with pytest.raises(CallerNotAllowed):
        front.ask(DECIDE, question(), "labels")
    front.ask(OUTCOME, outcome, "labels")
    assert front.refused == {"role": 2}


def test_health_and_reflection_stay_open() -> None:
    open_paths = {path for path in Front().methods if path.startswith("/grpc.")}
    assert len(open_paths) >= 3


@pytest.mark.parametrize(
    ("listen", "access", "is_good"),
    [
        ("127.0.0.1:1", None, True),
        ("[::1]:1", None, True),
        ("localhost:1", None, True),
        ("0.0.0.0:1", None, False),
        ("10.0.0.7:1", None, False),
        ("0.0.0.0:1", "open", True),
        ("0.0.0.0:1", "access.json", True),
    ],
)
def test_beyond_this_machine_nobody_is_served_unless_a_file_says_who(
    tmp_path: Any, listen: str, access: str | None, is_good: bool
) -> None:
    settings: dict[str, Any] = {
        "deployment": "d",
        "listen": listen,
        "worker_sockets": ["w"],
        **dict.fromkeys(("bundles_dir", "capture_dir", "state_dir", "operators", "plan_key"), "x"),
    }
    if access is not None:
        settings["access"] = access
    if is_good:
        assert (GatewaySettings.from_json(settings, tmp_path).access is None) == (access != "access.json")
    else:
        with pytest.raises(FieldInvalid, match="gateway.access is not set"):
            GatewaySettings.from_json(settings, tmp_path)


@pytest.mark.parametrize(
    "principals",
    [
        [principal("a", "king")],
        [principal("a", "caller"), principal("a", "viewer")],
        [principal("a", "caller"), {**principal("b", "caller"), "tokens": [digest_bytes(b"a")]}],
        [{**principal("a", "caller"), "tokens": ["a token in clear"]}],
    ],
    ids=["role", "name-twice", "token-twice", "token-in-clear"],
)
def test_a_file_that_is_not_clear_about_who_is_who_is_refused(principals: list[Any]) -> None:
    with pytest.raises(FieldInvalid):
        Access.from_json({"schema": SCHEMA, "principals": principals})


def test_whoever_is_added_or_removed_is_so_from_the_next_call_on() -> None:
    front = Front()
    with pytest.raises(CallerUnknown):
        front.ask(DECIDE, question(), "newcomer")
    front.access = Access.from_json({"schema": SCHEMA, "principals": [principal("newcomer", "caller")]})
    assert front.ask(DECIDE, question(), "newcomer")
    with pytest.raises(CallerUnknown):
        front.ask(DECIDE, question(), "bidder")


@pytest.mark.parametrize(
    ("left", "refusal"),
    [([], CallerUnknown), ([principal("bidder", "labeller")], CallerNotAllowed)],
    ids=["removed", "other-roles"],
)
def test_a_stream_ends_for_whoever_is_removed_while_it_lasts(left: list[Any], refusal: type[Exception]) -> None:
    front = Front()
    chunk = decide_pb2.GenerateChunk(text="word")

    async def endless(request: Any, deadline: float | None, arrived: float | None) -> Any:
        while True:
            yield chunk

    front.gateway.generate = endless  # type: ignore[method-assign]

    async def listen() -> int:
        call = Call(GENERATE, {"authorization": "Bearer bidder"})
        handler: Any = front.methods[GENERATE].handler
        heard = 0
        asked = decide_pb2.GenerateRequest(specialist=TASK.name, input=decide_pb2.Input(text="hello"))
        with pytest.raises(refusal):
            async for _ in handler(call, asked.SerializeToString()):
                heard += 1
                if heard == 3:
                    front.access = Access.from_json({"schema": SCHEMA, "principals": left})
        return heard

    assert asyncio.run(listen()) == 3


def test_a_changed_file_is_read_again_and_a_wrong_one_leaves_the_last_good_one(tmp_path: Path) -> None:
    path, now, problems = tmp_path / "access.json", [0.0], list[str]()

    def write(*names: str) -> None:
        path.write_text(json.dumps({"schema": SCHEMA, "principals": [principal(name, "caller") for name in names]}))

    def known() -> set[str]:
        now[0] += LOOK_S
        return {p.name for p in file().principals}

    write("a")
    file = AccessFile(path, problems.append, lambda: now[0])
    write("a", "b")
    assert {p.name for p in file().principals} == {"a"}  # not looked at yet
    assert known() == {"a", "b"}
    path.write_text("{")
    assert known() == {"a", "b"} == known() and len(problems) == 1
    path.unlink()
    assert known() == {"a", "b"} and "cannot be read" in problems[1]
    write("c")
    assert known() == {"c"}
