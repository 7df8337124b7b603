"""Whatever somebody does to the ledger's rows, a verification says so and says where."""

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine, Table, delete, update
from sqlalchemy.exc import IntegrityError

from controlplane.store.database import open_database
from controlplane.store.ledger import (
    GENESIS,
    LedgerBroken,
    append,
    checkpoint,
    entries,
    head,
    ledger_checkpoint,
    ledger_entry,
    ledger_metadata,
    ledger_node,
    prove,
    prove_consistency,
)
from controlplane.store.ledger_audit import verify
from protos.contract.checkpoint import sign_checkpoint, verify_checkpoint
from protos.contract.digest import canonical_json
from protos.contract.merkle import EMPTY_ROOT, is_consistent, is_included, leaf_hash, node_hash, root_of

ORIGIN = "test/ledger"
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = KEY.public_key()
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def fresh(path: Path) -> Engine:
    engine = open_database(f"sqlite:///{path}")
    ledger_metadata.create_all(engine)
    return engine


def filled(path: Path, count: int = 20, checkpoint_at: tuple[int, ...] = (5, 12)) -> Engine:
    """Write a genesis entry and ``count`` more; sign the head when it has one of the given sizes."""
    engine = fresh(path)
    with engine.begin() as connection:
        for i in range(count):
            size = append(connection, "ann", "plan.published", {"n": i}, AT + timedelta(seconds=i)) + 1
            if size in checkpoint_at:
                checkpoint(connection, KEY, ORIGIN)
    return engine


def tampered(path: Path, *statements: str) -> None:
    """Change the file behind everybody's back, triggers dropped first."""
    with sqlite3.connect(path) as raw:
        triggers = [name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type='trigger'")]
        for name in triggers:
            raw.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            raw.execute(statement)
    raw.close()


def test_a_genesis_entry_comes_first_and_the_caller_s_own_next(tmp_path: Path) -> None:
    engine = fresh(tmp_path / "a.db")
    with engine.begin() as connection:
        assert head(connection) == (0, EMPTY_ROOT)
        assert append(connection, "ann", "plan.published", {"b": 1, "a": "é"}, AT) == 1
        assert append(connection, "bob", "plan.published", {}, AT.astimezone(timezone(timedelta(hours=5)))) == 2
        first, second, third = entries(connection, 0, 10)
    assert (first.seq, first.action) == (0, GENESIS)
    assert (second.seq, second.at, second.actor, second.detail) == (1, AT, "ann", {"a": "é", "b": 1})
    assert third.at == AT


def test_entries_come_in_pages(tmp_path: Path) -> None:
    with filled(tmp_path / "a.db").begin() as connection:
        assert [entry.seq for entry in entries(connection, 18, 2)] == [18, 19]
        assert [entry.seq for entry in entries(connection, 20, 9)] == [20]
        assert entries(connection, 21, 9) == []


def test_the_record_and_the_change_are_kept_or_lost_together(tmp_path: Path) -> None:
    engine = filled(tmp_path / "a.db")
    with engine.connect() as connection:
        before = head(connection)
        append(connection, "ann", "plan.published", {}, AT)
        connection.rollback()
        assert head(connection) == before


def test_a_time_without_a_zone_is_refused(tmp_path: Path) -> None:
    with fresh(tmp_path / "a.db").begin() as connection, pytest.raises(ValueError, match="time zone"):
        append(connection, "ann", "x", {}, datetime(2026, 1, 1))


def test_a_detail_that_is_not_json_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    with filled(tmp_path / "a.db").begin() as connection:
        before = head(connection)
        with pytest.raises(ValueError):
            append(connection, "ann", "x", {"nan": float("nan")}, AT)
        assert head(connection) == before


def test_the_head_is_the_root_over_the_bodies_at_every_size(tmp_path: Path) -> None:
    with fresh(tmp_path / "a.db").begin() as connection:
        for i in range(70):
            append(connection, "ann", "x", {"n": i}, AT)
            leaves = [leaf_hash(entry.body) for entry in entries(connection, 0, 1000)]
            assert head(connection) == (i + 2, root_of(leaves))


def test_every_proof_from_the_store_verifies(tmp_path: Path) -> None:
    with filled(tmp_path / "a.db", 36).begin() as connection:
        leaves = [leaf_hash(entry.body) for entry in entries(connection, 0, 100)]
        size, root = head(connection)
        for seq, proof in enumerate(prove(connection, range(size))):
            assert leaf_hash(proof.body) == leaves[seq] and (proof,) == tuple(prove(connection, [seq]))
            assert is_included(leaves[seq], seq, size, proof.hashes, root)
        for new in range(1, size + 1):
            for old in range(1, new + 1):
                way = prove_consistency(connection, old, new)
                assert is_consistent(old, root_of(leaves[:old]), new, root_of(leaves[:new]), way)
        assert is_included(leaves[3], 3, 9, prove(connection, [3], 9)[0].hashes, root_of(leaves[:9]))
        with pytest.raises(ValueError, match="size"):
            prove(connection, [3], size + 1)
        with pytest.raises(ValueError, match="index"):
            prove(connection, [size])


def test_a_checkpoint_signs_the_head_and_repeats_itself(tmp_path: Path) -> None:
    with filled(tmp_path / "a.db").begin() as connection:
        text = checkpoint(connection, KEY, ORIGIN)
        assert checkpoint(connection, KEY, ORIGIN) == text
        said = verify_checkpoint(text, ORIGIN, PUBLIC)
        assert (said.size, said.root) == head(connection)
        with pytest.raises(LedgerBroken):
            checkpoint(connection, Ed25519PrivateKey.generate(), ORIGIN)


def test_an_empty_ledger_has_nothing_to_sign(tmp_path: Path) -> None:
    with fresh(tmp_path / "a.db").begin() as connection:
        with pytest.raises(ValueError, match="empty"):
            checkpoint(connection, KEY, ORIGIN)
        assert verify(connection, PUBLIC, ORIGIN).is_intact


def test_an_untouched_ledger_is_intact(tmp_path: Path) -> None:
    with filled(tmp_path / "a.db").begin() as connection:
        report = verify(connection, PUBLIC, ORIGIN, held=[checkpoint(connection, KEY, ORIGIN)])
        assert (report.size, report.root) == head(connection)
    assert report.is_intact and report.problem is None and report.checkpoints == 3


@pytest.mark.parametrize("table", [ledger_entry, ledger_node, ledger_checkpoint], ids=lambda t: t.name)
@pytest.mark.parametrize("verb", [update, delete])
def test_rows_cannot_be_changed_by_mistake(tmp_path: Path, table: Table, verb: Callable[[Table], Any]) -> None:
    statement = verb(table)
    if verb is update:
        name = next(column.name for column in table.c if not column.primary_key)
        statement = statement.values({name: b"x" if name == "hash" else "x"})
    with filled(tmp_path / "a.db").begin() as connection, pytest.raises(IntegrityError, match="append-only"):
        connection.execute(statement)


SWAP = (
    "CREATE TEMP TABLE spare AS SELECT * FROM ledger_entry WHERE seq IN (7, 9)",
    *(
        f"UPDATE ledger_entry SET (at, actor, action, body) = (SELECT at, actor, action, body FROM spare WHERE seq={b})"
        f" WHERE seq={a}"
        for a, b in ((7, 9), (9, 7))
    ),
)


@pytest.mark.parametrize(
    "statements, first_bad",
    [
        pytest.param(
            ["UPDATE ledger_entry SET body = CAST(replace(body, '6', '5') AS BLOB) WHERE seq = 7"], 7, id="edit-body"
        ),
        pytest.param(["UPDATE ledger_entry SET body = CAST(body AS TEXT) WHERE seq = 7"], 7, id="edit-body-type"),
        pytest.param(["UPDATE ledger_entry SET body = x'00' WHERE seq = 7"], 7, id="edit-to-garbage"),
        pytest.param(["UPDATE ledger_entry SET actor = 'eve' WHERE seq = 7"], 7, id="edit-column"),
        pytest.param(["UPDATE ledger_entry SET at = '2026-01-01T00:00:00.000000Z' WHERE seq = 7"], 7, id="edit-time"),
        pytest.param(["DELETE FROM ledger_entry WHERE seq = 7"], 7, id="delete"),
        pytest.param(["DELETE FROM ledger_entry WHERE seq = 0"], 0, id="delete-genesis"),
        pytest.param(["DELETE FROM ledger_entry WHERE seq = 20"], 20, id="delete-last"),
        pytest.param(["DELETE FROM ledger_entry"], 0, id="delete-all"),
        pytest.param(
            ["DELETE FROM ledger_entry WHERE seq=7", "UPDATE ledger_entry SET seq=seq-1 WHERE seq>7"], 7, id="close-gap"
        ),
        pytest.param(
            ["INSERT INTO ledger_entry SELECT 21, at, actor, action, body FROM ledger_entry WHERE seq=7"],
            21,
            id="insert-at-the-end",
        ),
        pytest.param(
            ["INSERT INTO ledger_entry SELECT -1, at, actor, action, body FROM ledger_entry WHERE seq=7"],
            0,
            id="insert-before",
        ),
        pytest.param(
            [
                "UPDATE ledger_entry SET seq=-seq-1 WHERE seq>=7",
                "UPDATE ledger_entry SET seq=-seq WHERE seq<0",
                "INSERT INTO ledger_entry SELECT 7, at, actor, action, body FROM ledger_entry WHERE seq=3",
            ],
            7,
            id="insert-between",
        ),
        pytest.param(SWAP, 7, id="reorder"),
        pytest.param(["UPDATE ledger_node SET hash=zeroblob(32) WHERE level=0 AND idx=7"], 7, id="edit-leaf"),
        pytest.param(["UPDATE ledger_node SET hash=zeroblob(32) WHERE level=2 AND idx=1"], 7, id="edit-inner-node"),
        pytest.param(["DELETE FROM ledger_node WHERE level=0 AND idx=7"], 7, id="delete-node"),
        pytest.param(["INSERT INTO ledger_node VALUES (0, 21, zeroblob(32))"], 21, id="insert-node"),
        pytest.param(["UPDATE ledger_checkpoint SET size=13 WHERE size=12"], 11, id="edit-checkpoint-size"),
        pytest.param(["UPDATE ledger_checkpoint SET text='x' WHERE size=12"], 11, id="edit-checkpoint"),
    ],
)
def test_tampering_with_the_file_is_found_and_placed(tmp_path: Path, statements: list[str], first_bad: int) -> None:
    filled(tmp_path / "a.db").dispose()
    tampered(tmp_path / "a.db", *statements)
    with open_database(f"sqlite:///{tmp_path}/a.db").begin() as connection:
        report = verify(connection, PUBLIC, ORIGIN)
    assert not report.is_intact and report.problem
    assert report.first_bad_seq == first_bad


def rewritten(path: Path, seq: int) -> None:
    """Change one entry and everything computed from it, as somebody who knows the format would."""
    with sqlite3.connect(path) as raw:
        raw.executescript("".join(f"DROP TRIGGER ledger_{t}_no_update;" for t in ("entry", "node", "checkpoint")))
        bodies = [body for (body,) in raw.execute("SELECT body FROM ledger_entry ORDER BY seq")]
        said = {"v": 1, "seq": seq, "at": "2026-01-02T03:04:05.000000Z", "actor": "eve", "action": "x", "detail": {}}
        bodies[seq] = canonical_json(said)
        raw.execute(
            "UPDATE ledger_entry SET at=?, actor='eve', action='x', body=? WHERE seq=?", (said["at"], bodies[seq], seq)
        )
        level, nodes = 0, [leaf_hash(body) for body in bodies]
        while nodes:
            for idx, node in enumerate(nodes):
                raw.execute("UPDATE ledger_node SET hash=? WHERE level=? AND idx=?", (node, level, idx))
            nodes = [node_hash(nodes[i], nodes[i + 1]) for i in range(0, len(nodes) - 1, 2)]
            level += 1
    raw.close()


def test_a_consistent_rewrite_is_betrayed_by_the_checkpoints(tmp_path: Path) -> None:
    filled(tmp_path / "a.db").dispose()
    rewritten(tmp_path / "a.db", 7)
    with open_database(f"sqlite:///{tmp_path}/a.db").begin() as connection:
        report = verify(connection, PUBLIC, ORIGIN)
    assert report.first_bad_seq == 5  # Entries 0 to 4 are those of the first checkpoint.
    assert "5 to 11" in str(report.problem)


def test_a_held_checkpoint_betrays_whoever_also_has_the_key(tmp_path: Path) -> None:
    engine = filled(tmp_path / "a.db", checkpoint_at=())
    with engine.begin() as connection:
        size, root = head(connection)
    held = sign_checkpoint(ORIGIN, size, root, KEY)
    engine.dispose()
    rewritten(tmp_path / "a.db", 7)
    with open_database(f"sqlite:///{tmp_path}/a.db").begin() as connection:
        checkpoint(connection, KEY, ORIGIN)
        assert verify(connection, PUBLIC, ORIGIN).is_intact
        assert verify(connection, PUBLIC, ORIGIN, held=[held]).first_bad_seq == 0


def test_a_cut_tail_is_betrayed_by_a_checkpoint_beyond_it(tmp_path: Path) -> None:
    filled(tmp_path / "a.db", checkpoint_at=(21,)).dispose()
    tampered(
        tmp_path / "a.db",
        "DELETE FROM ledger_entry WHERE seq >= 16",
        "DELETE FROM ledger_node WHERE ((idx + 1) << level) > 16",
    )
    with open_database(f"sqlite:///{tmp_path}/a.db").begin() as connection:
        report = verify(connection, PUBLIC, ORIGIN)
    assert report.first_bad_seq == 16 and "covers 21 entries" in str(report.problem)


def test_another_key_or_log_is_not_believed(tmp_path: Path) -> None:
    with filled(tmp_path / "a.db").begin() as connection:
        assert verify(connection, Ed25519PrivateKey.generate().public_key(), ORIGIN).first_bad_seq == 4
        assert not verify(connection, PUBLIC, "test/other").is_intact


def test_nothing_is_added_to_a_tree_with_holes(tmp_path: Path) -> None:
    filled(tmp_path / "a.db", 22, checkpoint_at=()).dispose()
    tampered(tmp_path / "a.db", "DELETE FROM ledger_node WHERE level=0 AND idx=22")
    with open_database(f"sqlite:///{tmp_path}/a.db").begin() as connection, pytest.raises(LedgerBroken) as caught:
        append(connection, "ann", "x", {}, AT)
    assert caught.value.seq == 22


def test_two_thousand_entries_cost_two_nodes_each_and_verify(tmp_path: Path) -> None:
    engine = filled(tmp_path / "a.db", 2_000, checkpoint_at=(256, 2_001))
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM ledger_node").scalar() == 2 * 2_001 - 7
        assert len(prove(connection, [1000])[0].hashes) == 11
        report = verify(connection, PUBLIC, ORIGIN)
    assert report.is_intact and report.size == 2_001
