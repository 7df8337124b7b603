"""Keys of what was captured, one for each subject and day, in a file of their own: to destroy a key is to erase.

The database and every backup of it hold ciphertext only. The file of keys (mode 0600, deleted rows overwritten) stays
out of backups. Records are sealed by AES-256-GCM with a random 96-bit nonce; what is sealed names its key.
"""

import contextlib
import hashlib
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12
FINGERPRINT = 8  # hex digits
MOST_CACHED = 50_000  # ciphers held in memory
DAY_MS = 86_400_000
_VERSION = b"\x02"
_TABLES = """
CREATE TABLE IF NOT EXISTS data_key (
  specialist TEXT, day TEXT, subject TEXT, key BLOB NOT NULL, PRIMARY KEY (specialist, day, subject)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS data_set (
  digest TEXT, specialist TEXT, day TEXT, subject TEXT, PRIMARY KEY (digest, specialist, day, subject)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seal_key (made_ms INTEGER PRIMARY KEY, key BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS data_set_key (digest TEXT PRIMARY KEY, key BLOB NOT NULL) WITHOUT ROWID;
"""


class KeyId(NamedTuple):
    """Whose key, of which UTC day; ``subject`` is a caller's pseudonym, or empty where none was recorded."""

    specialist: str
    day: str
    subject: str


_Cipher = tuple[bytes, AESGCM]  # what a sealed record begins with, and its key


class VaultBroken(Exception):
    """Sealed bytes are malformed or were changed."""


def day_of(at_ms: int) -> str:
    """Return the UTC day of Unix milliseconds."""
    return _day(at_ms // DAY_MS)


@lru_cache(maxsize=1000)
def _day(number: int) -> str:
    return (date(1970, 1, 1) + timedelta(days=number)).isoformat()


def is_vault(path: Path) -> bool:
    """Say whether a file holds a vault's keys; looks only, where opening a vault would make its tables."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as found:
            return found.execute("SELECT 1 FROM sqlite_master WHERE name = 'seal_key'").fetchone() is not None
    except sqlite3.Error:
        return False


class Vault:
    """Seals and opens what was captured; safe to use from several threads."""

    def __init__(self, path: Path | None) -> None:
        """Open or create the file; None keeps keys in memory, for as long as this process lives."""
        self.path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path or ":memory:", check_same_thread=False, isolation_level=None)
        for pragma in ("busy_timeout=5000", "secure_delete=ON", "synchronous=FULL"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.executescript(_TABLES)
        self._ciphers: OrderedDict[KeyId, _Cipher] = OrderedDict()

    def seal(self, items: Sequence[tuple[KeyId, bytes]]) -> list[bytes]:
        """Seal each under its key; keys that do not exist yet are drawn and kept first, in one transaction."""
        with self._lock:
            ciphers = self._all_ciphers({name for name, _ in items})
        sealed, nonces, at = [], os.urandom(NONCE_BYTES * len(items)), 0
        for name, data in items:
            head, cipher = ciphers[name]
            nonce = nonces[at : at + NONCE_BYTES]
            at += NONCE_BYTES
            sealed.append(b"".join((head, b"\x00", nonce, cipher.encrypt(nonce, data, head))))
        return sealed

    def open(self, sealed: bytes) -> bytes | None:
        """Open what was sealed; None where its key was destroyed.

        Raises:
            VaultBroken: The bytes are not what was sealed.
        """
        head, separator, rest = bytes(sealed).partition(b"\x00")
        name = _name(head)
        if name is None or not separator or len(rest) < NONCE_BYTES:
            raise VaultBroken("sealed bytes are malformed")
        with self._lock:
            found = self._cipher(name)
        if found is None or found[0] != head:
            return None  # whoever was erased and came back has another key for the same day
        try:
            return found[1].decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], head)
        except InvalidTag as error:
            raise VaultBroken("sealed bytes were changed") from error

    def seal_set(self, digest: str, data: bytes, of: Iterable[KeyId]) -> bytes:
        """Seal a set of records under a key of its own, which is destroyed with that of any record in it."""
        with self._lock:
            with self._writing() as database:
                database.execute("INSERT OR IGNORE INTO data_set_key VALUES (?, ?)", (digest, AESGCM.generate_key(256)))
                database.executemany(
                    "INSERT OR IGNORE INTO data_set VALUES (?, ?, ?, ?)", [(digest, *name) for name in set(of)]
                )
            key = self._set_key(digest)
        nonce = os.urandom(NONCE_BYTES)
        assert key is not None
        return nonce + AESGCM(key).encrypt(nonce, data, digest.encode())

    def open_set(self, digest: str, sealed: bytes) -> bytes | None:
        """Open a set; None where its key was destroyed. Raises VaultBroken."""
        with self._lock:
            key = self._set_key(digest)
        if key is None:
            return None
        try:
            return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], digest.encode())
        except InvalidTag as error:
            raise VaultBroken(f"data set {digest} was changed") from error

    def destroy(self, specialist: str, *, subjects: Iterable[str] | None = None, before: str = "") -> tuple[int, int]:
        """Destroy a specialist's keys, and those of every set that holds a record under one of them.

        Args:
            subjects: Of these subjects, whatever the day; None: of every one.
            before: Of days before this one only; empty: of every day.
        Returns:
            Numbers of keys and of sets.
        """
        where, values = ["specialist = ?"], [specialist]
        if subjects is not None:
            wanted = sorted(set(subjects))
            where.append(f"subject IN ({', '.join('?' * len(wanted))})")
            values += wanted
        if before:
            where.append("day < ?")
            values.append(before)
        chosen = " AND ".join(where)
        with self._lock:
            with self._writing() as database:
                sets = database.execute(
                    f"DELETE FROM data_set_key WHERE digest IN (SELECT digest FROM data_set WHERE {chosen})",  # noqa: S608
                    values,
                ).rowcount
                keys = database.execute(f"DELETE FROM data_key WHERE {chosen}", values).rowcount  # noqa: S608
                database.execute("DELETE FROM data_set WHERE digest NOT IN (SELECT digest FROM data_set_key)")
            self._ciphers.clear()
        return keys, sets

    def kept(self, specialist: str) -> tuple[int, str]:
        """Return how many keys of a specialist there are, and their oldest day; empty where there is none."""
        with self._lock:
            found = self._database.execute(
                "SELECT count(*), min(day) FROM data_key WHERE specialist = ?", (specialist,)
            ).fetchone()
        return int(found[0]), str(found[1] or "")

    def add_seal(self, made_ms: int, private: bytes) -> None:
        """Keep a key that segments are sealed for."""
        with self._lock:
            self._database.execute("INSERT OR REPLACE INTO seal_key VALUES (?, ?)", (made_ms, private))

    def seals(self) -> dict[int, bytes]:
        """Return the keys that segments are sealed for, by when they were made, Unix milliseconds."""
        with self._lock:
            return {int(made): bytes(key) for made, key in self._database.execute("SELECT made_ms, key FROM seal_key")}

    def forget_seal(self, made_ms: int) -> None:
        """Destroy one."""
        with self._lock:
            self._database.execute("DELETE FROM seal_key WHERE made_ms = ?", (made_ms,))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Write all or nothing; what failed does not stay open, or nothing could be written ever after."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def _all_ciphers(self, names: Collection[KeyId]) -> dict[KeyId, _Cipher]:
        """Return every name's cipher; what has no key gets one."""
        known = self._ciphers
        found: dict[KeyId, _Cipher] = {}
        unknown = []
        for name in names:
            if name in known:
                known.move_to_end(name)
                found[name] = known[name]
            else:
                unknown.append(name)
        if unknown:
            drawn = {}
            with self._writing() as database:  # nobody else draws keys while we look which there are
                for name in unknown:
                    cipher = self._cipher(name)
                    if cipher is None:
                        drawn[name] = AESGCM.generate_key(256)
                    else:
                        found[name] = cipher
                rows = [(*name, key) for name, key in drawn.items()]
                database.executemany("INSERT INTO data_key VALUES (?, ?, ?, ?)", rows)
            found |= {name: self._remember(name, key) for name, key in drawn.items()}
        return found

    def _cipher(self, name: KeyId) -> _Cipher | None:
        known = self._ciphers.get(name)
        if known is not None:
            self._ciphers.move_to_end(name)
            return known
        found = self._database.execute(
            "SELECT key FROM data_key WHERE specialist = ? AND day = ? AND subject = ?", name
        ).fetchone()
        return None if found is None else self._remember(name, found[0])

    def _remember(self, name: KeyId, key: bytes) -> _Cipher:
        # Which key it was, without saying anything of it.
        parts = (*name, hashlib.sha256(key).hexdigest()[:FINGERPRINT])
        cipher = self._ciphers[name] = (_VERSION + "\x1f".join(parts).encode(), AESGCM(key))
        if len(self._ciphers) > MOST_CACHED:
            self._ciphers.popitem(last=False)
        return cipher

    def _set_key(self, digest: str) -> bytes | None:
        found = self._database.execute("SELECT key FROM data_set_key WHERE digest = ?", (digest,)).fetchone()
        return None if found is None else bytes(found[0])


def key_of(sealed: bytes) -> KeyId | None:
    """Return which key something was sealed under; None for nothing."""
    return _name(bytes(sealed).partition(b"\x00")[0]) if sealed else None


def _name(head: bytes) -> KeyId | None:
    parts = head[len(_VERSION) :].decode("utf-8", "replace").split("\x1f")
    return KeyId(*parts[:3]) if head.startswith(_VERSION) and len(parts) == 4 else None
