"""Credit: whoever is declined is told why, in words, by the model that declined."""

from pathlib import Path

import numpy as np
import pytest

from controlplane.evals import registry
from controlplane.evals.gateway_trial import GatewayTrial
from controlplane.evals.inputs import input_of
from controlplane.evals.registry import Answers
from controlplane.packs.registry import load_metrics, load_pack
from controlplane.training.additive import fit
from protos.contract.bundle import BundleStore

load_metrics()
PACK = load_pack("credit-risk")
TASK = PACK.task


def test_every_field_that_can_be_a_reason_has_its_words() -> None:
    assert set(PACK.statements) == {field.name for field in TASK.fields}
    assert len(set(PACK.statements.values())) == len(PACK.statements)


def test_who_is_declined_through_the_gateway_is_told_up_to_four_principal_reasons(tmp_path: Path) -> None:
    fitted = fit(TASK, PACK.training_set(700, 1), PACK.held_out(100, 101), seed=1, analysers=PACK.analysers)
    digest = fitted.export(TASK, BundleStore(tmp_path), {"author": "trainer"}, PACK.statements)
    with GatewayTrial(tmp_path, digest, "grpcio") as gateway:
        asked = [input_of(TASK, case.text) for case in PACK.held_out(60, 2)]
        answers = [gateway.answer(one, 20_000_000) for one in asked]
    declined = [answer for answer in answers if answer.decision == "decline"]
    assert declined
    for answer in declined:
        assert 1 <= len(answer.reasons) <= 4
        assert [reason.statement for reason in answer.reasons] == [PACK.statements[r.field] for r in answer.reasons]
        strengths = [reason.log_odds for reason in answer.reasons]
        assert strengths == sorted(strengths, reverse=True) and strengths[-1] > 0


def test_of_those_who_repay_the_share_not_approved_is_what_denial_costs_them() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1])  # four repay
    decisions = np.array([0, 0, 1, 2, 2, 0])
    answers = Answers.of(TASK, labels, np.full((6, 2), 0.5), decisions)
    assert registry.find("false_denial_rate").value(answers)[0] == pytest.approx(0.5)
    assert registry.find("approval_rate").value(answers)[0] == pytest.approx(0.5)
    assert np.isnan(registry.find("false_denial_rate").value(answers.take(np.array([4, 5])))[0])


@pytest.mark.parametrize("words", ["age", "sex", "marital", "race", "nation"])
def test_no_reason_speaks_of_a_protected_attribute(words: str) -> None:
    assert not any(words in said.lower().split() for said in PACK.statements.values())
