"""Training and evaluating: jobs followed to their end."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from controlplane.cli.app import app
from protos import control_pb2
from tests.controlplane.cli.fake import NEW, FakeControl, interlock, job, said

GATE = {"text": "core [/f1]: at least 0.8", "passed": True, "found": 0.9, "low": 0.85, "high": 0.95, "needed": 0.8}
TRAIN = ("specialist", "train", "brand", "--reason", "why", "--as", "bob")


@pytest.fixture
def trained(control: FakeControl) -> FakeControl:
    done = job("train", "done", 10, bundle_digest=NEW, seconds=3.0, steps=40)
    control.jobs = {
        "train-10": [job("train", "running", 10), done],
        "evaluate-20": [job("evaluate", "running", 20), job("evaluate", "done", 20, accepted=True, gates=[GATE])],
    }
    control.jobs["train-10"][0].progress = 0.5
    return control


def test_train_follows_its_own_evaluation_and_no_earlier_one(trained: FakeControl) -> None:
    code, found = said(*TRAIN)
    assert code == 0
    assert [(j["id"], j["state"]) for j in found] == [("train-10", "done"), ("evaluate-20", "done")]
    assert found[1]["result"]["gates"] == [GATE]


def test_train_shows_every_gate(trained: FakeControl) -> None:
    code, text = interlock(*TRAIN)
    assert code == 0 and "accepted" in text
    assert "core [/f1]: at least 0.8" in text and "0.8500 … 0.9500" in text


def test_train_without_waiting_returns_the_queued_job(trained: FakeControl) -> None:
    code, found = said(*TRAIN, "--no-wait", "--seed", "7", "--no-start-rollout")
    assert (code, [j["state"] for j in found]) == (0, ["queued"])
    request = trained.asked[0]
    assert (request.requested_by, request.seed, request.start_rollout) == ("bob", 7, False)


def test_each_invocation_is_a_new_operation_unless_it_is_named(trained: FakeControl) -> None:
    for more in ((), (), ("--operation-id", "mine")):
        assert said(*TRAIN, "--no-wait", *more)[0] == 0
    ids = [request.operation_id for request in trained.of(control_pb2.TrainRequest)]
    assert len(set(ids)) == 3 and ids[2] == "mine" and len(ids[0]) == 32


def test_a_failed_job_is_a_failed_command(trained: FakeControl) -> None:
    trained.jobs["train-10"] = [job("train", "failed", 10)]
    code, found = said(*TRAIN)
    assert (code, found["error"]["status"]) == (1, "ABORTED")
    assert "train [/is] failed" in found["error"]["message"]


def test_eval_follows_the_job(trained: FakeControl) -> None:
    code, found = said("specialist", "eval", "brand", NEW)
    assert (code, found[0]["result"]["accepted"]) == (0, True)
    assert trained.asked[0].bundle_digest == NEW


def test_jobs_lists_results(trained: FakeControl) -> None:
    code, found = said("jobs", "list", "brand")
    assert (code, [j["id"] for j in found]) == (0, ["evaluate-1", "train-10", "evaluate-20"])
    assert "train [/is] running" in interlock("jobs", "list")[1]


def test_a_deployment_gets_no_second_specialist_of_one_name(tmp_path: Path) -> None:
    assert said("init", str(tmp_path / "prod"))[0] == 0
    config = tmp_path / "prod" / "interlock.toml"
    asked = ("specialist", "init", "refund-abuse", "--config", str(config))
    assert said(*asked, "--into", str(tmp_path / "one"))[0] == 0
    before = config.read_text()
    code, refused = said(*asked, "--into", str(tmp_path / "two"))
    assert (code, refused["error"]["status"]) == (1, "FAILED_PRECONDITION")
    assert "name is 'refund-abuse', which " in refused["error"]["message"]
    assert config.read_text() == before and not (tmp_path / "two").exists()


def test_what_comes_after_init_names_the_deployments_own_folders(tmp_path: Path) -> None:
    assert said("init", str(tmp_path / "prod"))[0] == 0
    rows = "".join(f"{i},{'spam' if i % 2 else 'ham'},text {i} {'win' if i % 2 else 'home'}\n" for i in range(200))
    (tmp_path / "sms.csv").write_text("id,label,text\n" + rows)
    config = ("--config", str(tmp_path / "prod" / "interlock.toml"))
    more = ("--from", str(tmp_path / "sms.csv"), "--into", str(tmp_path), *config)
    code, text = interlock("specialist", "init", "messages", *more)
    assert code == 0, text
    assert f"--store {tmp_path / 'prod' / 'bundles'} --artifacts {tmp_path / 'prod' / 'artifacts'}" in text


def test_jobs_fit_a_usual_terminal(trained: FakeControl) -> None:
    for states in trained.jobs.values():
        states[0].CopyFrom(
            control_pb2.Job(id="evaluate-8c3d22d07757", kind="evaluate", specialist="fraud", state="done")
        )
        states[0].progress, states[0].attempt, states[0].cause, states[0].message = 1.0, 1, "operator", "done"
    lines = CliRunner().invoke(app, ["jobs", "list"], env={"COLUMNS": "80"}).output.splitlines()
    assert lines[-1].split() == ["evaluate-8c3d22d07757", "fraud", "done", "100%", "1", "operator", "done"]


def test_digests_that_people_copy_are_never_broken(control: FakeControl) -> None:
    control.specialist.bundles.add(digest=NEW, state="accepted", cause="operator", created_at="2026-11-29T03:06:54.5")
    shown = CliRunner().invoke(app, ["specialist", "show", "brand"], env={"COLUMNS": "80"}).output
    assert NEW in shown


def test_what_comes_after_a_try_measures_the_file_as_the_folder_reads_it(tmp_path: Path) -> None:
    rows = "".join(f"{i},{'spam' if i % 2 else 'ham'},text {i} {'win' if i % 2 else 'home'}\n" for i in range(200))
    (tmp_path / "sms.csv").write_text("id,label,text\n" + rows)
    assert said("specialist", "init", "messages", "--from", str(tmp_path / "sms.csv"), "--into", str(tmp_path))[0] == 0
    store = ("--bundles", str(tmp_path / "bundles"))
    code, text = interlock("specialist", "try", str(tmp_path / "messages"), *store, "--examples", "60")
    assert code == 0, text
    following = text.split("next: interlock ")[1].replace("FILE", str(tmp_path / "sms.csv")).split()
    code, found = said(*following, "--gateway-cases", "0", "--robustness-cases", "0", "--rounds", "100")
    assert code == 0 and found["data"]["set"] == "fraud-sms-spam"
