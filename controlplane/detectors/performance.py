"""How often is the engine right, before anybody has said so? And may that estimate be believed?"""

import math
from dataclasses import dataclass

import numpy as np

from controlplane.detectors import TooFewSamples
from controlplane.detectors.resampling import Numbers

LEAST = 30  # rows with a known outcome: fewer calibrate nothing and check nothing
Z = 1.96


@dataclass(frozen=True, slots=True)
class PerformanceEstimate:
    """An accuracy nobody has measured.

    Attributes:
        value: Expected share of right answers among the window's.
        lower, upper: 95 % interval for what would be realised if the assumption holds.
        realised: Share of right answers among those with a known outcome, NaN when there are too few.
        known: How many those are.
        holds: Does what is known agree with the estimate? None: too little is known to say.
        why: The sentence behind ``holds``.
    """

    value: float
    lower: float
    upper: float
    realised: float
    known: int
    holds: bool | None
    why: str


def recalibrate(confidences: Numbers, correct: Numbers, live: Numbers) -> Numbers:
    """Map live confidences to how often such confidences were right on the reference.

    Args:
        confidences: Probability given to the answer, reference rows with a known outcome, shape [n].
        correct: 1 where the answer was right, else 0, shape [n].
        live: Confidences to map, shape [m].
    Source: isotonic regression (Zadrozny and Elkan, 2002). Below ``LEAST`` rows confidences are taken as they are.
    """
    if len(confidences) < LEAST:
        return live
    from sklearn.isotonic import IsotonicRegression  # two seconds to import, and not needed at start

    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(confidences, correct)
    found: Numbers = fitted.predict(live)
    return found


def estimate_accuracy(
    confidences: Numbers, correct: Numbers, live: Numbers, live_correct: Numbers
) -> PerformanceEstimate:
    """Estimate a window's accuracy from its confidences (CBPE), and check the assumption on what is known.

    The estimate assumes that an answer given with confidence p is as often right as it was on the
    reference: inputs may change, what they mean may not. Where outcomes are known, that is a
    testable statement, and a failed test says that the estimate must not be used.

    Args:
        confidences, correct: The reference, shape [n]; rows whose outcome is unknown are NaN in ``correct``.
        live, live_correct: The window, shape [m].
    Raises:
        TooFewSamples: The window is empty.
    Source: confidence-based performance estimation; average confidence (Guillory et al., 2021), recalibrated.
    """
    if len(live) == 0:
        raise TooFewSamples("the window has no rows, expected at least 1")
    has_outcome = ~np.isnan(correct)
    mapped = recalibrate(confidences[has_outcome], correct[has_outcome], live)
    value = float(mapped.mean())
    # What is realised varies by the answers' own chances, and the map by the reference's size.
    spread = float(mapped.mean() * (1 - mapped.mean()))
    error = math.sqrt(float((mapped * (1 - mapped)).mean()) / len(live) + spread / max(int(has_outcome.sum()), 1))
    lower, upper = max(0.0, value - Z * error), min(1.0, value + Z * error)
    is_known = ~np.isnan(live_correct)
    known = int(is_known.sum())
    if known < LEAST:
        why = f"{known} of {len(live)} outcomes are known, expected {LEAST}: nothing to check it against"
        return PerformanceEstimate(value, lower, upper, math.nan, known, None, why)
    realised, expected = float(live_correct[is_known].mean()), float(mapped[is_known].mean())
    chances = mapped[is_known] * (1 - mapped[is_known])
    # 3 standard errors: this is looked at in every window, and one false "fails" in 370 is enough.
    allowed = 3 * math.sqrt(float(chances.mean()) / known + spread / max(int(has_outcome.sum()), 1))
    holds = abs(realised - expected) <= allowed
    why = (
        f"of {known} known outcomes {realised:.1%} were right where {expected:.1%} was expected, "
        f"{'within' if holds else 'beyond'} {allowed:.1%}: confidences "
        f"{'still mean what they meant' if holds else 'no longer mean what they meant, do not use the estimate'}"
    )
    return PerformanceEstimate(value, lower, upper, realised, known, holds, why)
