"""The shadow report as a person and as a script read it."""

import re

import pytest

from protos import control_pb2
from tests.controlplane.cli.fake import NEW, OLD, FakeControl, interlock, said

Q = {"at": [0.5, 0.99]}


def estimate(value: float, sample: int = 100) -> control_pb2.Estimate:
    return control_pb2.Estimate(value=value, lower=value - 0.1, upper=value + 0.1, sample=sample)


@pytest.fixture
def shadow(control: FakeControl) -> control_pb2.ShadowReport:
    measure = control_pb2.PairedMeasure(
        primary=control_pb2.Quantiles(value=[2000, 4000], **Q),
        candidate=control_pb2.Quantiles(value=[2500, 9000], **Q),
        difference=control_pb2.Quantiles(value=[250, -1500], **Q),
    )
    counts = (("allow", "allow", 60), ("allow", "block", 1), ("block", "", 39))
    gates = (("shadow_late", "not_yet", 0.39, 7), ("shadow_disagreement", "not_yet", 0.1, 0))
    control.shadow = control_pb2.ShadowReport(
        rollout="r-1",
        phase="shadow",
        primary_digest=OLD,
        candidate_digest=NEW,
        shadow_bp=2000,
        flow=control_pb2.ShadowFlow(
            offered=2**40, sent=120, paired=100, on_their_way=2, drops={"shadow_late": 2**40 - 103, "shadow_[/x]": 1}
        ),
        pairs=100,
        detailed=100,
        failures={"engine_error": 39},
        decisions=[control_pb2.DecisionPair(primary=p, candidate=c, n=n) for p, c, n in counts],
        in_time=estimate(0.6),
        engine_us=measure,
        score_difference=estimate(0.0, sample=0),
        gates=[
            control_pb2.GateReading(gate=name, verdict=verdict, value=value, limit=0.05, sample_missing=missing)
            for name, verdict, value, missing in gates
        ],
    )
    return control.shadow


def line(output: str, begins: str) -> str:
    return " ".join(next(found for found in output.splitlines() if found.startswith(begins)).split())


@pytest.mark.usefixtures("shadow")
def test_a_person_reads_what_was_compared_and_what_was_not() -> None:
    code, output = interlock("shadow", "report", "brand")
    assert code == 0
    assert line(output, "shadow_late").startswith("shadow_late 1,099,511,627,673 ████")
    assert line(output, "shadow_[/x]").startswith("shadow_[/x] 1 ▏")
    assert line(output, "on their way").startswith("on their way, or lost with a gateway 2 ▏")
    assert line(output, "decisions") == "decisions: 40 of 100 pairs differ; no answer: engine_error 39"
    assert line(output, "primary \\") == "primary \\ candidate allow block no answer"
    assert line(output, "allow") == "allow 60 60.0% ████▉ 1 1.0% ▏ ·"
    assert line(output, "block") == "block · · 39 39.0% ███▏"
    assert line(output, "difference") == "difference, pair by pair +0.25 -1.50"
    assert line(output, "candidate would") == "candidate would have met the deadline 60.0% 50.0% … 70.0% 100"
    assert line(output, "score, mean") == "score, mean difference unknown 0"


@pytest.mark.usefixtures("shadow")
def test_each_gate_says_what_is_still_needed_and_for_which_verdict() -> None:
    _, output = interlock("shadow", "report", "brand")
    assert line(output, "late").endswith("7 to fail")
    assert line(output, "disagreement").endswith("more of the same will not do")


def test_without_a_pair_only_the_counts_and_the_gates_are_shown(
    control: FakeControl, shadow: control_pb2.ShadowReport
) -> None:
    control.shadow = control_pb2.ShadowReport(rollout="r-1", primary_digest=OLD, gates=shadow.gates)
    code, output = interlock("shadow", "report", "brand")
    assert (code, "primary \\ candidate" in output, "quantiles" in output) == (0, False, False)
    assert re.search(r"^offered +0 *$", output, re.M)
    assert line(output, "candidate would").endswith("unknown 0")


@pytest.mark.usefixtures("shadow")
def test_a_script_reads_numbers_as_numbers() -> None:
    code, found = said("shadow", "report", "brand")
    assert (code, found["flow"]["drops"]["shadow_late"], found["failures"]) == (0, 2**40 - 103, {"engine_error": 39})
    assert {"primary": "block", "candidate": "", "n": 39} in found["decisions"]
    assert found["engine_us"]["difference"] == {"at": [0.5, 0.99], "value": [250.0, -1500.0]}


@pytest.mark.usefixtures("shadow")
def test_a_specialist_without_a_rollout_is_a_sentence() -> None:
    code, found = said("shadow", "report", "nobody")
    assert (code, found["error"]["status"]) == (1, "NOT_FOUND")


def test_a_first_bundle_is_said_to_have_been_compared_with_nothing(shadow: control_pb2.ShadowReport) -> None:
    shadow.CopyFrom(control_pb2.ShadowReport(rollout="r-1", phase="primary", candidate_digest=NEW, shadow_bp=2000))
    code, output = interlock("shadow", "report", "brand")
    assert code == 0 and "has no primary to be compared with" in output and "not_yet" not in output
