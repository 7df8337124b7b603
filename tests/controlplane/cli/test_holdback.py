"""The holdback report as a person and as a script read it."""

import pytest

from protos import control_pb2
from tests.controlplane.cli.fake import OLD, FakeControl, interlock, said


def estimate(value: float, lower: float, upper: float, sample: int) -> control_pb2.Estimate:
    return control_pb2.Estimate(value=value, lower=lower, upper=upper, sample=sample)


@pytest.mark.parametrize(
    ("lower", "upper", "sample", "words"),
    [
        (0.1, 0.3, 50, "the model earns its place"),
        (-0.3, -0.1, 50, "the model does harm"),
        (-0.1, 0.3, 50, "cannot tell yet"),
        (-1.0, 1.0, 0, "nothing to compare yet"),
    ],
    ids=["worth", "harm", "unknown", "nothing"],
)
def test_a_person_is_told_whether_the_model_earns_its_place(
    control: FakeControl, lower: float, upper: float, sample: int, words: str
) -> None:
    control.holdback = control_pb2.HoldbackReport(
        specialist="brand",
        bundle_digest=OLD,
        holdback_bp=500,
        with_model=estimate(0.1, 0.05, 0.2, 2**40),
        without_model=estimate(0.3, 0.2, 0.4, sample),
        saved=estimate(0.2, lower, upper, sample),
    )
    code, output = interlock("holdback", "report", "brand")
    assert code == 0
    assert words in output
    assert "5 % of units held back" in output
    assert "1,099,511,627,776" in output
    code, found = said("holdback", "report", "brand")
    assert (code, found["with_model"]["sample"], found["holdback_bp"]) == (0, 2**40, 500)
