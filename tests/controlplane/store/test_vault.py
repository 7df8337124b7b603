"""Keys of what callers sent: a write that fails leaves the vault as it was, and usable."""

import sqlite3
from pathlib import Path

import pytest

from controlplane.store.vault import KeyId, Vault

ANN = KeyId("brand", "2026-01-01", "ann")


def test_a_write_that_failed_does_not_stop_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "capture.keys"
    vault = Vault(path)
    with sqlite3.connect(path) as other:
        other.execute("CREATE TRIGGER full BEFORE INSERT ON data_key BEGIN SELECT RAISE(FAIL, 'no space'); END")
    with pytest.raises(sqlite3.Error, match="no space"):
        vault.seal([(ANN, b"text")])
    with sqlite3.connect(path) as other:
        other.execute("DROP TRIGGER full")
    (sealed,) = vault.seal([(ANN, b"text")])
    assert vault.open(sealed) == b"text"
    assert vault.destroy("brand", subjects={"ann"}) == (1, 0)
    assert vault.open(sealed) is None
    vault.close()
