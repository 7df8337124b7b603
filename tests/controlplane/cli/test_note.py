"""``interlock note``: chosen or generated, a note says nothing that nobody said, or says that it does."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from controlplane.evals.gateway_trial import GatewayTrial
from controlplane.packs.clinical_note.generated import schema_of
from controlplane.packs.clinical_note.note import SECTIONS, check_note, turns_of
from controlplane.packs.registry import load_pack
from controlplane.training.additive import fit
from protos import decide_pb2, decide_pb2_grpc
from protos.contract.base import BaseStore
from protos.contract.bundle import BundleStore
from tests.controlplane.cli.fake import interlock

ENCOUNTER = (
    "Doctor: Good morning, please have a seat.\n"
    "Doctor: What are you taking?\n"
    "Patient: metformin 500 milligrams every morning.\n"
    "Doctor: Any allergies?\n"
    "Patient: I am allergic to peanuts, my face swells.\n"
    "Doctor: We will start lisinopril 10 milligrams twice a day.\n"
)


@pytest.fixture(scope="module")
def transcript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encounter") / "encounter.txt"
    path.write_text(ENCOUNTER)
    return path


@pytest.fixture(scope="module")
def chooser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root, pack = tmp_path_factory.mktemp("chooser"), load_pack("clinical-note")
    fitted = fit(pack.task, pack.training_set(700, 1), pack.held_out(80, 2), seed=1)
    digest = fitted.export(pack.task, BundleStore(root), {"author": "trainer"})
    with GatewayTrial(root, digest, "grpcio") as gateway:
        yield gateway.address


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    for needed in ("torch", "transformers", "tokenizers", "llguidance"):
        pytest.importorskip(needed)
    from tests.gateway.worker.tiny_models import DECODER_TASK, write_base

    root = tmp_path_factory.mktemp("writer")
    write_base(root / "llama", "llama", max_position_embeddings=2048)
    base = BaseStore(root / "bundles" / "bases").add("llama", root / "llama")
    task = replace(
        DECODER_TASK, name="writer", max_tokens=512, max_input_bytes=65536, deadline_us=60_000_000, service_class="soft"
    )
    made = BundleStore(root / "bundles").add(
        task=task,
        engine={"backend": "transformers"},
        contents={},
        base={"name": "llama", "digest": base},
        lineage={"author": "trainer"},
    )
    with GatewayTrial(root / "bundles", made.digest, "grpcio") as gateway:
        yield gateway.address


def said(*words: str) -> dict[str, Any]:
    code, shown = interlock(*words, "--json")
    assert code == 0, shown
    found: dict[str, Any] = json.loads(shown)
    return found


def test_a_chosen_note_is_shown_as_it_is_answered_and_is_grounded(transcript: Path, chooser: str) -> None:
    code, shown = interlock("note", str(transcript), "--gateway", chooser)
    assert code == 0, shown
    (place,) = re.findall(r"^medications  metformin 500 milligrams every morning\.  \((\d+)-(\d+)\)$", shown, re.M)
    assert ENCOUNTER[int(place[0]) : int(place[1])] == "metformin 500 milligrams every morning."
    assert " statements, 0 of them not in the transcript; " in shown
    note = said("note", str(transcript), "--gateway", chooser)
    assert check_note(note, ENCOUNTER) == []
    assert [one["text"] for one in note["sections"]["allergies"]] == ["I am allergic to peanuts, my face swells."]


def statements(note: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for name in SECTIONS for one in note["sections"][name]]


def test_a_model_of_noise_under_the_constraint_cannot_say_what_was_not_said(transcript: Path, writer: str) -> None:
    note = said("note", str(transcript), "--specialist", "writer", "--generate", "--gateway", writer)
    assert statements(note), "a model of noise that writes nothing proves nothing"
    assert note["ungrounded"] == 0 and check_note(note, ENCOUNTER) == []


def test_a_model_of_noise_in_its_own_words_keeps_the_schema_and_is_found_out(transcript: Path, writer: str) -> None:
    options = ("--specialist", "writer", "--generate", "--free", "--gateway", writer)
    note = said("note", str(transcript), *options)
    assert list(note["sections"]) == list(SECTIONS)
    assert note["ungrounded"] == len([one for one in statements(note) if "span" not in one]) > 0
    assert check_note(note, ENCOUNTER)  # whoever checks it again finds the same
    assert "not in the transcript" in interlock("note", str(transcript), *options)[1]


def asked_of(writer: str, **grounding: str) -> list[decide_pb2.GenerateChunk]:
    schema = schema_of(list(turns_of(ENCOUNTER)), is_free=True)
    request = decide_pb2.GenerateRequest(
        specialist="writer",
        input=decide_pb2.Input(text=ENCOUNTER),
        max_tokens=4096,
        constraint=decide_pb2.Constraint(json_schema=json.dumps(schema)),
        grounding=decide_pb2.Grounding(**grounding),
    )
    with grpc.insecure_channel(writer) as channel:
        return list(decide_pb2_grpc.DecisionServiceStub(channel).Generate(request, timeout=60))


def test_the_gateway_flags_what_nobody_said_in_the_stream(writer: str) -> None:
    chunks = asked_of(writer)
    note = json.loads("".join(chunk.text for chunk in chunks))
    stated = [statement for chunk in chunks for statement in chunk.statements]
    assert [(one.key, one.text) for one in stated] == [(name, text) for name in SECTIONS for text in note[name]]
    assert any(not one.grounded for one in stated)
    assert any(chunk.statements for chunk in chunks[: len(chunks) // 2]), "flagged as it is written, not at the end"
    for one in stated:
        assert not one.grounded or ENCOUNTER[one.start : one.end].lower().split() == one.text.lower().split()


def test_a_text_to_be_grounded_in_has_to_be_there(writer: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        asked_of(writer, field="history")
    error: Any = refused.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "grounding.field is 'history', expected a text of the input" in error.details()


def test_a_specialist_of_sentences_is_not_given_a_whole_transcript_to_write_of(transcript: Path, chooser: str) -> None:
    code, shown = interlock("note", str(transcript), "--generate", "--gateway", chooser)
    assert code == 1 and "expected asked, said" in shown


def test_a_file_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"\xff\xfe\x00")
    code, shown = interlock("note", str(tmp_path / "x.bin"))
    assert code == 2 and "x.bin" in shown


def test_an_empty_transcript_is_no_note_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "encounter.txt").write_text(" \n")
    code, text = interlock("note", str(tmp_path / "encounter.txt"))
    assert code == 2 and "encounter.txt is empty, expected turns such as 'Doctor: ...'" in text
