"""A database edited by hand, and the witnesses who notice."""

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

from controlplane.store import ledger, plans
from protos.contract.checkpoint import sign_checkpoint
from protos.contract.plan_rules import sign_plan
from tests.controlplane.cli.fake import said
from tests.controlplane.governed import Governed, control


class TestEditedByHand:
    """Whoever writes into the database, even with the plan key, moves no traffic."""

    def smuggle(self, site: Governed, weight: int) -> None:
        with site.deployment.store.writing(site.clock()) as unit:
            standing = plans.standing(unit)
            assert standing is not None
            split = replace(standing.plan.splits[0], canary_bp=weight)
            forged = replace(standing.plan, generation=plans.last_generation(unit) + 1, splits=(split,))
            plans.add(unit, sign_plan(forged, site.deployment.key), forged, None)
        site.deployment.changed()

    def refusal(self, site: Governed) -> str:
        def newest() -> Any:
            with site.deployment.store.reading() as unit:
                row = plans.get(unit, plans.last_generation(unit))
            return row.reason if row is not None and row.state == plans.REFUSED else ""

        return str(site.until(newest, "a refusal"))

    def test_a_plan_written_into_the_table_is_refused(self, site: Governed) -> None:
        site.shadowing()
        self.smuggle(site, 5_000)
        assert self.refusal(site) == "approval_missing"
        assert site.split().canary_bp == 0  # type: ignore[union-attr]

    def test_an_approval_signed_by_a_key_that_is_nobody_s_is_refused(self, site: Governed) -> None:
        _, _, new = site.shadowing()
        site.approve_standing(new, key="plan.key")
        self.smuggle(site, 5_000)
        assert self.refusal(site) == "signature_invalid"
        assert site.split().canary_bp == 0  # type: ignore[union-attr]

    def test_a_real_approval_does_not_let_an_unrecorded_plan_through(self, site: Governed) -> None:
        _, _, new = site.shadowing()
        site.approve_standing(new)
        with site.deployment.store.writing(site.clock()) as unit:
            ledger.checkpoint(unit.connection, site.deployment.key, site.deployment.ledger_origin)
        self.smuggle(site, 5_000)
        assert self.refusal(site) == "plan_not_recorded"
        assert site.split().canary_bp == 0  # type: ignore[union-attr]

    def test_a_ledger_rewritten_under_the_plan_key_is_noticed_by_the_gateway(self, site: Governed) -> None:
        site.shadowing()
        site.stop_control()
        database = site.root / "control.db"
        with sqlite3.connect(database) as raw:
            for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type='trigger'").fetchall():
                raw.execute(f"DROP TRIGGER {name}")
            raw.execute("UPDATE ledger_entry SET body = CAST(replace(body, 'ann', 'eve') AS BLOB)")
            raw.execute("DELETE FROM ledger_checkpoint")
        raw.close()
        with site.deployment.store.writing(site.clock()) as unit:
            rebuilt(unit.connection)
            size, root = ledger.head(unit.connection)
            text = sign_checkpoint("interlock/test", size, root, site.deployment.key)
            unit.connection.execute(ledger.ledger_checkpoint.insert().values(size=size, text=text))
        site.start_control()
        self.smuggle(site, 5_000)
        assert self.refusal(site) in ("ledger_forked", "ledger_proof_stale")
        assert site.split().canary_bp == 0  # type: ignore[union-attr]


def rebuilt(connection: Any) -> None:
    """Recompute every node, as somebody with the database would."""
    from protos.contract.merkle import Trail, leaf_hash

    connection.execute(ledger.ledger_node.delete())
    trail = Trail()
    for (body,) in connection.execute(ledger.ledger_entry.select().with_only_columns(ledger.ledger_entry.c.body)):
        rows = [{"level": level, "idx": idx, "hash": node} for level, idx, node in trail.add(leaf_hash(body))]
        connection.execute(ledger.ledger_node.insert(), rows)


def test_gateways_and_an_auditor_vouch_for_the_head_and_the_export_says_so(site: Governed, tmp_path: Path) -> None:
    assert said("operator", "keygen", "--person", "ada", "--out", str(tmp_path / "ada.key"), "--role", "auditor",
                "--enrol", str(tmp_path / "operators.json"))[0] == 0  # fmt: skip
    site.shadowing()
    cosign = (
        "ledger", "cosign", "--person", "ada", "--key", str(tmp_path / "ada.key"), "--state", str(tmp_path / "seen"),
        "--plan-key", str(tmp_path / "plan.key.pub"), "--deployment", "test", *control(site),
    )  # fmt: skip

    def seen() -> Any:
        code, found = said(*cosign)
        assert code == 0, found
        return found if found["witnesses"] == ["auditor/ada", "gateway/g"] else None

    first = site.until(seen, "both witnesses")
    assert said(*cosign)[1]["from"] == first["size"]
    code, found = said("ledger", "export", str(tmp_path / "out"), *control(site))
    assert code == 0 and found["witnesses"] == dict.fromkeys(["auditor/ada", "gateway/g"], first["size"])
    keys = [f"auditor/ada={tmp_path / 'ada.key.pub'}", f"gateway/g={tmp_path / 'gw' / 'witness.key.pub'}"]
    verify = (
        "ledger", "verify", "--export", str(tmp_path / "out"), "--plan-key", str(tmp_path / "plan.key.pub"),
        "--deployment", "test", "--witness", keys[0], "--witness", keys[1], "--checkpoint", str(tmp_path / "seen"),
    )  # fmt: skip
    code, found = said(*verify)
    assert code == 0 and found["size"] == first["size"]
    # A head that nobody saw yet: each vouches for as much as it saw, and for no word more.
    site.stop_gateway()
    with site.deployment.store.writing(site.clock()) as unit:
        unit.record("ann", "note", {})
        ledger.checkpoint(unit.connection, site.deployment.key, "interlock/test")
        size, _ = ledger.head(unit.connection)
    assert said("ledger", "export", str(tmp_path / "out"), *control(site))[0] == 0
    code, found = said(*verify)
    assert code == 0, found
    assert found["size"] == size and found["witnesses"]["gateway/g"] < size
    words = tmp_path / "out" / "witnesses.json"
    seen_by, head = json.loads(words.read_text()), (tmp_path / "out" / "checkpoint.txt").read_text()
    for claimed in ({"auditor/ada": seen_by["auditor/ada"]}, {**seen_by, "gateway/g": head}):
        words.write_text(json.dumps(claimed))
        code, found = said(*verify)
        assert code == 1 and "gateway/g" in found["problem"]
    words.write_text(json.dumps(seen_by))
    code, found = said("ledger", "prove", "1", "--plan-key", str(tmp_path / "plan.key.pub"), "--deployment", "test",
                       *control(site))  # fmt: skip
    assert code == 0 and found["signature_checked"] and found["body"]["seq"] == 1
    code, found = said("ledger", "prove", "9999", *control(site))
    assert code == 2 and "entries, expected a head of 10000" in found["error"]["message"], found
    lines = (tmp_path / "out" / "entries.jsonl").read_bytes().splitlines(keepends=True)
    for changed in (lines[:1] + lines[2:], [lines[0], lines[2], lines[1], *lines[3:]], [*lines, lines[-1]]):
        (tmp_path / "out" / "entries.jsonl").write_bytes(b"".join(changed))
        assert said(*verify)[0] == 1
    # A past that was rewritten gets no second signature.
    text = (tmp_path / "seen").read_text()
    size = int(text.split("\n")[1])
    (tmp_path / "seen").write_text(sign_checkpoint("interlock/test", size, b"\1" * 32, site.deployment.key))
    code, found = said(*cosign)
    assert (code, found["error"]["status"]) == (1, "DATA_LOSS")
