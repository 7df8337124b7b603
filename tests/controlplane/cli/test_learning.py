"""``interlock jobs`` and ``interlock label`` against a real control plane's services on a free port."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.loop import observe
from controlplane.loop.triggers import decide
from controlplane.rpc.server import ControlServer
from controlplane.rpc.traffic import PlanBell
from controlplane.store import jobs
from tests.controlplane.cli.fake import interlock, said
from tests.controlplane.loop.fixture import NAME, World, world

RESULT = {
    "losses": [1.0, 0.6, 0.4, 0.3],
    "losses_every": 5,
    "looks": [{"step": 20, "loss": 0.35, "accuracy": 0.9, "macro_f1": 0.85}],
    "steps": 20,
    "provenance": {"code": "sha256:1", "libraries": {"torch": "2"}},
}


@pytest.fixture
def served_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = world(tmp_path)
    bundle = made.bundle()
    made.first_plan(bundle)
    made.capture([made.sample(f"text {i}", bundle=bundle, score=score) for i, score in enumerate((0.1, 0.5, 0.9))])
    observe.observe(made.deployment)
    with made.deployment.store.writing(made.clock()) as unit:
        for name in ("train-1", "train-2"):
            jobs.add(unit, {"id": name, "kind": "train", "specialist": NAME, "cause": "operator", "request": {}})
        jobs.finish(unit, "train-2", jobs.DONE, "done", RESULT)
        decide(unit, made.deployment, NAME, "schedule", "a week went by")
    loop = asyncio.new_event_loop()
    ready: list[int] = []
    started = threading.Event()

    async def serve() -> None:
        async def in_thread(work):  # type: ignore[no-untyped-def]
            return await asyncio.to_thread(work)

        server = ControlServer(made.deployment, in_thread, PlanBell())
        ready.append(await server.start("127.0.0.1:0"))
        stopping.append(asyncio.Event())
        started.set()
        await stopping[0].wait()
        await server.stop()

    stopping: list[asyncio.Event] = []
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert started.wait(30)
    monkeypatch.setenv("INTERLOCK_CONTROL", f"127.0.0.1:{ready[0]}")
    yield made
    loop.call_soon_threadsafe(stopping[0].set)
    thread.join(30)
    loop.close()


def test_a_job_is_cancelled_and_queued_again_by_a_named_person(served_world: World) -> None:
    who = ("--as", "ann", "--reason", "not needed")
    code, found = said("jobs", "cancel", "train-1", *who)
    assert (code, found["state"]) == (0, "cancelled")
    assert said("jobs", "cancel", "train-1", *who)[1]["error"]["status"] == "FAILED_PRECONDITION"
    assert said("jobs", "retry", "train-1", *who)[1]["state"] == "queued"
    assert said("jobs", "retry", "nothing", *who)[1]["error"]["status"] == "NOT_FOUND"
    assert said("jobs", "retry", "train-2", *who)[0] == 1, "a job that is done is done"


def test_a_training_is_shown_with_its_curve_and_what_made_it(served_world: World, tmp_path: Path) -> None:
    code, text = interlock("jobs", "show", "train-2", "--curve", str(tmp_path / "curve.svg"))
    assert code == 0
    for word in ("1.000", "step 20", "macro-F1 0.850", "torch 2", "made by"):
        assert word in text
    assert (tmp_path / "curve.svg").read_text().startswith("<svg")
    assert [job["id"] for job in said("jobs", "list")[1]] == ["train-1", "train-2"]
    assert (
        said("jobs", "show", "train-1", "--curve", str(tmp_path / "x.svg"))[1]["error"]["status"]
        == "FAILED_PRECONDITION"
    )


def test_why_a_retraining_did_not_start_can_be_read(served_world: World) -> None:
    code, found = said("jobs", "decisions", NAME)
    assert code == 0
    assert [(d["trigger"], d["retrains"], d["code"]) for d in found] == [("schedule", False, "busy")]
    assert "not retraining, because job train-1" in found[0]["reason"]


def test_labels_go_out_as_a_file_and_come_back_with_their_agreement(served_world: World, tmp_path: Path) -> None:
    sheet = tmp_path / "cases.csv"
    code, cases = said("label", "next", NAME, "--as", "ann", "--out", str(sheet))
    assert code == 0 and cases[0]["why"] == "margin"
    lines = sheet.read_text().splitlines()
    filled = (
        [lines[0]]
        + [line.replace(",ann,,", ",ann,safe,") for line in lines[1:]]
        + ["d-1,bob,unsafe,,", "d-9,bob,safe,,"]
    )
    sheet.write_text("\n".join(filled) + "\n")
    code, found = said("label", "import", NAME, str(sheet))
    assert (code, found["kept"]) == (1, 4), "a script is told that a row was refused"
    assert found["refused"][0]["row"] == 5 and "d-9" in found["refused"][0]["problem"]
    code, found = said("label", "export", NAME)
    assert code == 0 and found["pairs"][0]["cases"] == 1
    assert {case["decision_id"]: case["label"] for case in found["cases"]} == {"d-1": "", "d-2": "safe", "d-3": "safe"}
    code, text = interlock("label", "export", NAME, "--out", str(tmp_path / "out.csv"))
    assert code == 0 and "3 cases, 1 without a majority" in text


def test_a_sheet_that_nobody_filled_in_is_wrong_use_and_rows_without_a_label_are_counted(
    served_world: World, tmp_path: Path
) -> None:
    sheet = tmp_path / "cases.csv"
    code, nobody = said("label", "next", NAME, "--as", " ", "--out", str(sheet))
    assert code == 2 and "person is ' ', expected who" in nobody["error"]["message"] and not sheet.exists()
    assert said("label", "next", NAME, "--as", "ann", "--out", str(sheet))[0] == 0
    code, found = said("label", "import", NAME, str(sheet))
    assert code == 2 and "has a label in none of its 3 rows" in found["error"]["message"]
    sheet.write_text(sheet.read_text().replace(",ann,,", ",ann,safe,", 1))
    assert said("label", "import", NAME, str(sheet)) == (0, {"kept": 1, "refused": [], "without_label": 2})
