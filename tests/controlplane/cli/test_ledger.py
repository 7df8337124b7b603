"""Verifying the ledger offline, on real databases that somebody changed."""

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controlplane.store import ledger
from controlplane.store.store import Store
from protos.contract.attestation import generate_key, read_private
from tests.controlplane.cli.fake import interlock, said


class Records:
    """A ledger of six entries and one signed head."""

    def __init__(self, root: Path) -> None:
        generate_key(root / "plan.key")
        self.path = root / "control.db"
        self.held = root / "held.checkpoint"
        store = Store(f"sqlite:///{self.path}")
        with store.writing(0) as unit:
            for i in range(5):
                ledger.append(unit.connection, "ann", "thing.done", {"i": i}, datetime.now(UTC))
            key = read_private(root / "plan.key")
            self.held.write_text(ledger.checkpoint(unit.connection, key, "interlock/prod"))
        store.close()
        self.key = str(root / "plan.key.pub")

    def verify(self, url: str = "", *, key: str = "", deployment: str = "prod") -> tuple[str, ...]:
        database = url or f"sqlite:///{self.path}"
        named = ("--plan-key", key or self.key, "--deployment", deployment)
        return ("ledger", "verify", "--database", database, *named)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path)


def test_a_ledger_verifies_until_a_row_is_changed(records: Records) -> None:
    code, found = said(*records.verify())
    assert (code, found["verified"], found["size"]) == (0, True, 6)
    assert "verified: 6 entries under one signed head" in interlock(*records.verify())[1]
    with sqlite3.connect(records.path) as database:
        database.execute("DROP TRIGGER ledger_entry_no_update")
        body = database.execute("SELECT body FROM ledger_entry WHERE seq = 3").fetchone()[0]
        database.execute("UPDATE ledger_entry SET body = ? WHERE seq = 3", (body.replace(b'"i":2', b'"i":9'),))
    code, found = said(*records.verify())
    assert (code, found["verified"], found["first_bad_seq"]) == (1, False, 3)
    assert "NOT verified at entry 3: " in interlock(*records.verify())[1]


def test_a_head_kept_elsewhere_shows_that_the_ledger_was_cut_short(records: Records) -> None:
    with sqlite3.connect(records.path) as database:
        for table in ("entry", "node", "checkpoint"):
            database.execute(f"DROP TRIGGER ledger_{table}_no_delete")
        database.execute("DELETE FROM ledger_checkpoint")
        database.execute("DELETE FROM ledger_entry WHERE seq >= 4")
        database.execute("DELETE FROM ledger_node WHERE (idx + 1) << level > 4")
    assert said(*records.verify())[1]["verified"] is True
    code, found = said(*records.verify(), "--checkpoint", str(records.held))
    assert (code, found["verified"], found["first_bad_seq"]) == (1, False, 4)


def test_a_ledger_is_not_verified_by_another_key_or_name(records: Records, tmp_path: Path) -> None:
    generate_key(tmp_path / "other.key")
    assert said(*records.verify(key=str(tmp_path / "other.key.pub")))[0] == 1
    assert said(*records.verify(deployment="test"))[0] == 1


@pytest.mark.parametrize("driver", ["sqlite", "sqlite+pysqlite"])
def test_a_missing_database_is_an_error_and_is_not_created(records: Records, tmp_path: Path, driver: str) -> None:
    missing = tmp_path / "missing.db"
    for query in ("", "?timeout=1"):
        code, found = said(*records.verify(f"{driver}:///{missing}{query}"))
        assert (code, found["error"]["status"]) == (1, "NOT_FOUND")
    assert not missing.exists()


def test_a_file_that_is_no_database_is_an_error(records: Records, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database")
    code, found = said(*records.verify(f"sqlite:///{tmp_path / 'text.db'}"))
    assert (code, found["error"]["message"]) == (1, "the database holds no readable ledger: DatabaseError")


def test_an_empty_ledger_is_not_verified(records: Records, tmp_path: Path) -> None:
    Store(f"sqlite:///{tmp_path / 'new.db'}").close()
    code, text = interlock(*records.verify(f"sqlite:///{tmp_path / 'new.db'}"))
    assert code == 1 and "NOT verified: the ledger is empty" in text


def test_a_password_in_a_database_url_is_never_printed(records: Records) -> None:
    code, text = interlock(*records.verify("postgresql+psycopg://ann:SECRET@127.0.0.1:1/x"))
    assert code in (1, 2) and "SECRET" not in text


def test_a_checkpoint_that_is_no_text_is_wrong_use(records: Records, tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "bytes", tmp_path / "missing"):
        assert said(*records.verify(), "--checkpoint", str(path))[0] == 2


def test_settings_name_the_database_relative_to_themselves(
    records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "d"
    assert said("init", str(folder), "--deployment", "prod")[0] == 0
    records.path.rename(folder / "control.db")
    monkeypatch.chdir(tmp_path)
    code, found = said("ledger", "verify", "--config", "d/interlock.toml", "--plan-key", records.key)
    assert (code, found["verified"]) == (0, True)
    assert said("ledger", "verify", "--config", "d/interlock.toml")[0] == 1  # another key signed this ledger
    assert said("ledger", "verify", "--config", "d/interlock.toml", "--database", "sqlite:///x")[0] == 2


def test_a_private_key_given_for_the_public_one_is_named_and_not_printed(records: Records) -> None:
    private = records.key.removesuffix(".pub")
    code, text = interlock(*records.verify(key=private))
    assert code == 2 and "private key, expected its public half" in text
    assert Path(private).read_text().splitlines()[1][:12] not in text


def cosign(records: Records, state: Path) -> tuple[str, ...]:
    private = records.key.removesuffix(".pub")
    said_by = ("--person", "ada", "--key", private, "--state", str(state))
    return ("ledger", "cosign", *said_by, "--plan-key", records.key, "--deployment", "prod")


@pytest.mark.parametrize("text", ["no checkpoint", "another ledger's"])
def test_an_auditor_s_state_that_is_no_head_of_this_ledger_is_wrong_use(records: Records, text: str) -> None:
    state = records.path.parent / "seen"
    held = records.held.read_text()
    state.write_text(text if text == "no checkpoint" else held.replace("interlock/prod", "interlock/test"))
    code, found = said(*cosign(records, state))
    assert code == 2 and str(state) in found["error"]["message"], found


def test_options_that_would_do_nothing_are_refused(records: Records, tmp_path: Path) -> None:
    witness = ("--witness", f"gateway/g={records.key}")
    export = ("ledger", "verify", "--export", str(tmp_path), "--plan-key", records.key, "--deployment", "prod")
    wrong = {
        "--witness": (*records.verify(), *witness),
        "--export": (*export, "--database", f"sqlite:///{records.path}"),
        "--plan-key": ("ledger", "prove", "1", "--plan-key", records.key),
        "--deployment": ("ledger", "prove", "1", "--deployment", "prod"),
    }
    for option, words in wrong.items():
        code, found = said(*words)
        assert code == 2 and option in found["error"]["message"], found
    missing = (*export[:3], str(tmp_path / "none"), *export[4:])
    assert said(*missing)[0] == 2 and said(*export)[0] == 1
