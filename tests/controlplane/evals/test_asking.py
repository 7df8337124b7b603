"""Asking a live model: a local server that speaks OpenAI's chat completions stands in for it."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from controlplane.evals.asking import Endpoint, ModelRefused, Question, ask_all, label_in, read_key
from controlplane.packs.registry import load_pack
from protos.contract.bundle import BundleStore
from tests.controlplane.cli.fake import said
from tests.tasks import TASK

KEY = "sk-test"


class Server(ThreadingHTTPServer):
    """Answers the label that a text names; is busy the first time a text says so, and cuts one answer short."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.at_once = self.most_at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None: ...

    def do_POST(self) -> None:  # noqa: N802
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        server = self.server
        with server.lock:
            server.asked[text] += 1
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        status, answer = self.answer(text, body)
        with server.lock:
            server.at_once -= 1
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def answer(self, text: str, body: dict[str, Any]) -> tuple[int, Any]:
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            return 401, {"error": "no such key"}
        if "busy" in text and self.server.asked[text] == 1:
            return 503, {"error": "busy"}
        if "broken" in text:
            return 200, {"choices": []}
        label = text.split("label:")[1].split()[0]
        usage = {"prompt_tokens": 100, "completion_tokens": 2}
        return 200, {"choices": [{"message": {"content": f" {label.upper()}.\n"}}], "usage": usage, "model": "m-1"}


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def questions(n: int, word: str = "page") -> list[Question]:
    return [Question(str(i), f"label:{TASK.labels[i % len(TASK.labels)]} {word} {i}") for i in range(n)]


def test_answers_are_recorded_with_latency_and_cost_and_asked_once(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    endpoint = Endpoint(server.url, "m", KEY, price_in=1.0, price_out=10.0)
    assert ask_all(endpoint, TASK, questions(6), out, concurrency=2) == {"asked": 6, "known": 0, "failed": {}}
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["id"]: row["label"] for row in rows} == {str(i): TASK.labels[i % len(TASK.labels)] for i in range(6)}
    assert {row["cost"] for row in rows} == {120e-6} and all(row["latency_ms"] > 0 for row in rows)
    assert server.most_at_once <= 2
    assert ask_all(endpoint, TASK, questions(8), out) == {"asked": 2, "known": 6, "failed": {}}
    assert set(server.asked.values()) == {1}


def test_a_busy_server_is_asked_again_and_a_case_without_an_answer_is_named(server: Server, tmp_path: Path) -> None:
    out, endpoint = tmp_path / "answers.jsonl", Endpoint(server.url, "m", KEY)
    asked = [*questions(2, "busy"), Question("odd", "label:x broken")]
    found = ask_all(endpoint, TASK, asked, out, pause_s=0.0)
    assert found["asked"] == 2 and list(found["failed"]) == ["odd"] and "choices" in found["failed"]["odd"]
    assert len(out.read_text().splitlines()) == 2


def test_a_server_that_refuses_the_key_is_asked_no_further(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="401"):
        ask_all(Endpoint(server.url, "m", "sk-other"), TASK, questions(50), tmp_path / "a.jsonl", concurrency=1)
    assert sum(server.asked.values()) == 1


@pytest.mark.parametrize(
    ("answer", "label"),
    [(TASK.labels[0].upper(), TASK.labels[0]), (f'"{TASK.labels[1]}".', TASK.labels[1]), ("I would say so", "")],
    ids=["case", "punctuation", "prose"],
)
def test_only_a_label_by_itself_is_an_answer(answer: str, label: str) -> None:
    assert label_in(TASK, answer) == label


def test_the_command_asks_what_is_missing_and_eval_run_reads_it(server: Server, tmp_path: Path) -> None:
    store = BundleStore(tmp_path / "bundles")
    engine = {"backend": "simulator", "accuracy": 0.6, "seed": 1}
    digest = store.add(task=TASK, engine=engine, contents={}, base={}, lineage={"author": "trainer"}).digest
    rows = [{"text": q.text, "label": TASK.labels[int(q.name) % len(TASK.labels)]} for q in questions(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "key").write_text(KEY + "\n")
    same = ("brand", "--bundle", digest, "--bundles", str(tmp_path / "bundles"), "--data", str(tmp_path / "rows.jsonl"))
    where = ("--url", server.url, "--model", "m", "--key-file", str(tmp_path / "key"), "--price-in", "1")
    code, found = said("eval", "ask", *same, *where, "--out", str(tmp_path / "a.jsonl"))
    assert (code, found["asked"]) == (0, 40), found
    code, report = said("eval", "run", *same, "--answers", f"m={tmp_path / 'a.jsonl'}", "--gateway-cases", "0")
    assert code == 0 and report["models"]["m"]["accuracy"]["value"] == 1.0
    assert report["recorded"]["m"]["cost_per_decision"] == pytest.approx(1e-4)
    assert report["recorded"]["m"]["latency_ms"]["p50"] > 0
    code, refused = said("eval", "ask", *same, *where[:4], "--out", str(tmp_path / "b.jsonl"))
    assert code == 1 and "401" in json.dumps(refused)


def test_a_folder_and_its_published_set_are_asked_about_as_they_are_measured(server: Server, tmp_path: Path) -> None:
    rows = [{"id": i, "text": f"label:{'fraud' if i % 3 else 'legitimate'} {i}"} for i in range(200)]
    rows = [row | {"label": "spam" if int(str(row["id"])) % 3 else "ham"} for row in rows]
    data = tmp_path / "sms.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert said("specialist", "init", "messages", "--from", str(data), "--into", str(tmp_path))[0] == 0
    task = load_pack(f"{tmp_path}/messages/").task
    store = BundleStore(tmp_path / "bundles")
    digest = store.add(task=task, engine={"backend": "simulator"}, contents={}, base={}, lineage={}).digest
    same = (f"{tmp_path}/messages", "--bundle", digest, "--bundles", str(tmp_path / "bundles"), "--data", str(data))
    (tmp_path / "key").write_text(KEY + "\n")
    where = ("--url", server.url, "--model", "m", "--key-file", str(tmp_path / "key"), "--cases", "6")
    code, found = said("eval", "ask", *same, *where, "--out", str(tmp_path / "a.jsonl"))
    assert (code, found.get("asked")) == (0, 6), found


def test_a_key_file_without_a_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("\n")
    with pytest.raises(ValueError, match="holds no key"):
        read_key(tmp_path / "key")
