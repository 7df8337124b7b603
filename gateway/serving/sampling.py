"""Which requests are recorded: some by rate, more of those that stand out, each with its chance written down.

Units are drawn by rate. A request that stands out is drawn once more, independently, by what it stands
out for; the chance that either happens is recorded, so that whatever is estimated from records counts
each by its inverse and stays unbiased. A rate of 0 records nothing at all.
"""

from dataclasses import dataclass

from xxhash import xxh3_64_intdigest

from gateway.domain.decision import Decision
from protos.contract.draws import BASIS_POINTS

RATE, NOVELTY, MARGIN, FALLBACK, DISAGREEMENT = "rate", "novelty", "margin", "fallback", "disagreement"
CLOSE = 0.1  # between the two likeliest labels: the engine could have said either
RARE = 200  # a kind of request that fewer than 1 in so many are is novel
KINDS = 1 << 12
FADE_EVERY = 1 << 16  # requests after which what was seen counts half
_EXTRA = b"\x1fextra\x1f"
_SHADOW = b"\x1fextra-shadow\x1f"


@dataclass(frozen=True, slots=True)
class ExtraRates:
    """Basis points of requests recorded beyond the rate, by what they stand out for."""

    novelty_bp: int
    margin_bp: int
    fallback_bp: int
    disagreement_bp: int


class Sampler:
    """Draws by hashes of ids; a few integers remember what has been usual. One event loop's own."""

    def __init__(self, rates: ExtraRates) -> None:
        self._rates = rates
        self._labels: dict[str, int] = {}  # as many as the tasks have
        self._seen = [0] * KINDS
        self._total = 0
        self.waits_for_shadow = rates.disagreement_bp > 0

    def stands_out(self, answer: Decision, input_bytes: int) -> tuple[str, int]:
        """Return what an answered request stands out for and the basis points of such that are drawn; "" for nothing.

        A fallback goes before a close call, and that before a kind of request (answer, tenth of the score,
        octave of the input's size) that has been rare of late.
        """
        rates = self._rates
        if answer.fallback:
            return FALLBACK, rates.fallback_bp
        first = second = 0.0
        for p in answer.probabilities:
            if p > first:
                first, second = p, first
            elif p > second:
                second = p
        label = self._labels.setdefault(answer.label, len(self._labels))
        kind = ((16 * label + int(answer.score * 10)) * 32 + min(input_bytes.bit_length(), 31)) % KINDS
        count = self._seen[kind]
        self._seen[kind] = count + 1
        self._total += 1
        is_novel = count * RARE < self._total
        if self._total >= FADE_EVERY:
            self._seen = [n >> 1 for n in self._seen]
            self._total >>= 1
        if first - second < CLOSE and first:
            return MARGIN, rates.margin_bp
        return (NOVELTY, rates.novelty_bp) if is_novel else ("", 0)

    def draw(
        self, rate_bp: int, is_drawn_by_rate: bool, decision_id: str, reason: str, extra_bp: int, disagreed: bool
    ) -> tuple[str, float] | None:
        """Return what a request is recorded for and the chance that such a one is; None: it is not recorded."""
        shadow_bp = self._rates.disagreement_bp if disagreed else 0
        drawn_for = ""
        if is_drawn_by_rate:
            drawn_for = RATE
        elif extra_bp and _place(_EXTRA, decision_id) < extra_bp:
            drawn_for = reason
        elif shadow_bp and _place(_SHADOW, decision_id) < shadow_bp:
            drawn_for = DISAGREEMENT
        if not drawn_for:
            return None
        missed = (BASIS_POINTS - rate_bp) * (BASIS_POINTS - extra_bp) * (BASIS_POINTS - shadow_bp)
        return drawn_for, 1 - missed / BASIS_POINTS**3


def _place(domain: bytes, decision_id: str) -> int:
    return xxh3_64_intdigest(domain + decision_id.encode()) % BASIS_POINTS
