"""What a person is shown before they sign: recomputed from the statement and its evidence, believed from nobody."""

import re
import secrets
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

from controlplane.cli.output import WRONG_USE, Problem, marked, percent, short, table
from controlplane.cli.signing import sign_with
from controlplane.report.words import answered
from protos import control_pb2 as pb
from protos import traffic_pb2
from protos.contract.attestation import MEANING, STATEMENT_TYPE, Approval, approval_payload
from protos.contract.digest import DigestMalformed, JsonMalformed, digest_bytes, digest_json, parse_json_object
from protos.contract.fields import FieldInvalid
from protos.contract.plan_rules import no_split_digest

UNITS_S = {"m": 60, "h": 3600, "d": 86_400}
MOST_VALID_S = 30 * 86_400
WORST = 3
LEAST_REASON = 3  # characters
VERDICTS = {True: ("pass", "green"), False: ("FAIL", "red"), None: ("n/a", "")}


@dataclass(frozen=True, slots=True)
class Review:
    """A checked draft: the statement to sign, the change it allows, and the evidence whose digest it names."""

    unsigned: Approval
    before: dict[str, Any] | None
    after: dict[str, Any]
    evaluation: dict[str, Any]
    gates: dict[str, Any]
    drill: dict[str, Any] | None

    def shown(self, valid_for: str) -> RenderableType:
        """Return what a person reads before they sign."""
        return Group(marked(self._statement(valid_for), ""), *self._evaluation(), *self._gates(), *self._regressions())

    def signed(self, key: Path, person: str, reason: str, seconds: int) -> traffic_pb2.Envelope:
        """Sign as a person, from now on, for so long; raises as ``sign_with`` does."""
        if len(reason.strip()) < LEAST_REASON:
            raise FieldInvalid(f"reason is {reason!r}, expected a few words for the record")
        now = int(time.time())
        said = replace(
            self.unsigned,
            person=person,
            reason=reason,
            nonce=secrets.token_hex(16),
            not_before=now,
            expires=now + seconds,
        )
        envelope = traffic_pb2.Envelope(payload=approval_payload(said), payload_type=STATEMENT_TYPE)
        sign_with(key, envelope)
        return envelope

    def _statement(self, valid_for: str) -> str:
        said = self.unsigned
        stages = f" in stages of {', '.join(percent(s) for s in said.stages_bp)}" if said.stages_bp else ""
        lines = [
            f"you would sign: {said.step} of {said.specialist} in {said.audience}, rollout {said.rollout},",
            f"  for {said.bundle} by {said.author}, up to {percent(said.ceiling_bp)} of requests{stages}, "
            f"for {valid_for}",
            f"  meaning: {MEANING}",
            "what would change:",
        ]
        for name in ("primary", "candidate", "previous"):
            was, will = (self.before or {}).get(name) or "none", self.after.get(name) or "none"
            lines.append(f"  {name} {will}" if was == will else f"  {name} {was} → {will}")
        share = "all requests" if said.step != "canary" else f"up to {percent(said.ceiling_bp)} of requests"
        lines.append(f"  {short(said.bundle)} answers {share}{stages if said.step == 'canary' else ''}")
        lines += [f"  evidence {said.evidence}", f"  suite {said.suite}"]
        if self.drill is not None:
            lines.append(f"  rollback drill: {self.drill.get('summary', 'none')}")
        return "\n".join(lines)

    def _evaluation(self) -> list[RenderableType]:
        rows = []
        for gate in self.evaluation.get("gates", []):
            word, style = VERDICTS[gate["passed"]]
            found = "" if gate["found"] is None else f"{gate['found']:.4f}"
            span = "" if gate["low"] is None else f"{gate['low']:.4f} … {gate['high']:.4f}"
            rows.append((marked(word, style), gate["text"], found, span))
        told = [marked(answered(*one), "") for one in sorted(self.evaluation.get("elsewhere", {}).items())]
        return [*told, *([table("evaluation", ("", "gate", "found", "interval"), rows)] if rows else [])]

    def _gates(self) -> list[RenderableType]:
        rows = [
            (g["gate"], g["verdict"], f"{g['value']:+.4f}", f"{g['lower']:+.4f} … {g['upper']:+.4f}", g["sample"])
            for g in self.gates.get("gates", [])
        ]
        return [table("live traffic", ("gate", "verdict", "value", "interval", "sample"), rows)] if rows else []

    def _regressions(self) -> list[RenderableType]:
        worst = self.evaluation.get("worst_regressions", [])[:WORST]
        if not worst:
            alone = (self.before or {}).get("primary") is None
            words = (
                "there is no primary to have got worse than" if alone else "no case got worse than under the primary"
            )
            return [marked(words, "")]
        rows = [(c["label"], c["primary_decision"], c["candidate_decision"], str(c["text"])[:120]) for c in worst]
        return [table(f"worst {len(rows)} regressions", ("true label", "primary says", "candidate says", "text"), rows)]


def reviewed(draft: pb.ApprovalDraft, asked: str, ceiling_bp: int) -> Review:
    """Recompute what a draft's digests name, so that nobody signs for shapes or evidence they were not shown.

    Args:
        asked: The rollout or specialist that the person named.
        ceiling_bp: Most that the person would allow; 0 when they set no limit of their own.
    Raises:
        Problem: It is no statement, a digest names something else than what is shown, or nobody asked for it.
    """
    try:
        unsigned = Approval.from_statement(draft.statement)
        before = parse_json_object(draft.from_shape_json.encode()) if draft.from_shape_json else None
        after = parse_json_object(draft.to_shape_json.encode())
        files = _evidence(draft, unsigned)
    except (FieldInvalid, JsonMalformed, DigestMalformed) as error:
        raise Problem(f"the draft cannot be read: {error}; not signed", "DATA_LOSS") from error
    if asked not in (unsigned.rollout, unsigned.specialist):
        raise Problem(f"the draft is of rollout {unsigned.rollout!r}, expected {asked!r}; not signed", "DATA_LOSS")
    if ceiling_bp and unsigned.ceiling_bp > ceiling_bp:
        raise Problem(
            f"the draft allows {unsigned.ceiling_bp} bp, expected up to {ceiling_bp}; not signed", "DATA_LOSS"
        )
    if ceiling_bp and not unsigned.stages_bp:
        raise Problem(
            f"--ceiling is {ceiling_bp} basis points ({percent(ceiling_bp)}), less than the first stage of "
            f"{unsigned.step}, so that nothing could follow; expected that of a stage; not signed",
            "INVALID_ARGUMENT",
            WRONG_USE,
        )
    expected = {
        "from_split": digest_json(before) if before is not None else no_split_digest(unsigned.specialist),
        "to_split": digest_json({**after, "ceiling_bp": unsigned.ceiling_bp}),
        "ceiling_bp": draft.ceiling_bp,
        "specialist": after.get("specialist"),
        "rollout": draft.rollout,
        "step": draft.step,
    }
    for name, value in expected.items():
        if getattr(unsigned, name) != value:
            raise Problem(
                f"the draft's {name} is {getattr(unsigned, name)!r}, but what it shows makes it {value!r}; not signed",
                "DATA_LOSS",
            )
    bundle = after.get("candidate") if unsigned.step == "canary" else after.get("primary")
    if unsigned.bundle != bundle:
        raise Problem(f"the draft approves {unsigned.bundle}, but shows {bundle}; not signed", "DATA_LOSS")
    return Review(unsigned, before, after, files["evaluation.json"], files["gates.json"], files.get("drill.json"))


def _evidence(draft: pb.ApprovalDraft, unsigned: Approval) -> dict[str, dict[str, Any]]:
    """Return the evidence files a draft shows, once they are those that the statement names by digest."""
    if (found := digest_bytes(draft.evidence_manifest)) != unsigned.evidence:
        raise Problem(
            f"the draft names evidence {short(unsigned.evidence)}, but shows {short(found)}; not signed", "DATA_LOSS"
        )
    manifest = parse_json_object(draft.evidence_manifest)
    for name in ("bundle", "suite", "rollout"):
        if manifest.get(name) != getattr(unsigned, name):
            raise Problem(f"the evidence is of another {name} than the draft; not signed", "DATA_LOSS")
    listed = manifest.get("files", {})
    shown = {"evaluation.json": draft.evaluation_json, "gates.json": draft.gates_json}
    if draft.drill_json:
        shown["drill.json"] = draft.drill_json
    for name, data in shown.items():
        if listed.get(name) != digest_bytes(data):
            raise Problem(f"{name} is not the one that the evidence names; not signed", "DATA_LOSS")
    return {name: parse_json_object(data) for name, data in shown.items()}


def seconds_of(text: str) -> int:
    """Read a time such as 30m, 2h or 1d, up to 30 days; raises FieldInvalid."""
    match = re.fullmatch(r"([1-9]\d{0,5})([mhd])", text, re.ASCII)
    seconds = int(match[1]) * UNITS_S[match[2]] if match else 0
    if not 0 < seconds <= MOST_VALID_S:
        raise FieldInvalid(f"valid-for is {text!r}, expected a time such as 30m, 2h or 1d, at most 30d")
    return seconds
