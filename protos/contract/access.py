"""Who a caller is and what they may do: one file, read by gateways and the control plane alike.

``access.json`` lists principals. A caller is one of them by a bearer token, of which the file holds only the
SHA-256, or by the name in a certificate that the server's own CA signed. Whoever is not in it may do nothing.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from protos.contract.digest import DigestMalformed, JsonMalformed, digest_bytes, parse_digest, parse_json_object
from protos.contract.fields import FieldInvalid, Reader

ROLES = ("caller", "labeller", "viewer", "operator", "approver", "steward", "auditor", "gateway")
EVERY = "*"
BEARER = "Bearer "
MAX_TOKEN = 4096  # characters: longer ones are not even hashed
SCHEMA = "interlock.access/1"
LOOK_S = 1.0  # between two looks at whether the file has changed


@dataclass(frozen=True, slots=True)
class Principal:
    """One tenant, person or process.

    Attributes:
        name: As in the ledger where it is a person.
        roles: What it may do; ``caller`` and ``labeller`` hold for its specialists only.
        specialists: Names, or ``*`` for every one.
    """

    name: str
    roles: frozenset[str]
    specialists: frozenset[str]

    def may(self, role: str) -> bool:
        """Say whether it holds a role."""
        return role in self.roles

    def may_use(self, specialist: str) -> bool:
        """Say whether a specialist is one of its own."""
        return specialist in self.specialists or EVERY in self.specialists


@dataclass(frozen=True, slots=True)
class Access:
    """Every principal, found by what a caller shows."""

    by_token: dict[str, Principal]
    by_identity: dict[str, Principal]

    @property
    def principals(self) -> tuple[Principal, ...]:
        """List everybody, once."""
        found = {p.name: p for p in (*self.by_token.values(), *self.by_identity.values())}
        return tuple(found.values())

    def who(self, authorization: object, identity: str) -> Principal | None:
        """Return who a caller is, by its verified certificate, else by its token; None for a stranger."""
        if identity and identity in self.by_identity:
            return self.by_identity[identity]
        if not isinstance(authorization, str) or not authorization.startswith(BEARER):
            return None
        if len(authorization) > MAX_TOKEN:
            return None
        # Looking up a hash tells nothing of the token by how long it takes.
        return self.by_token.get(digest_bytes(authorization[len(BEARER) :].encode()))

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read principals; raises FieldInvalid. One token or identity for two of them is refused."""
        read = Reader(value, "access")
        read.text("schema", choices=(SCHEMA,))
        by_token: dict[str, Principal] = {}
        by_identity: dict[str, Principal] = {}
        names: set[str] = set()
        for i, item in enumerate(read.items("principals")):
            where = f"access.principals[{i}]"
            one = Reader(item, where)
            name, roles = one.text("name"), one.texts("roles")
            for role in roles:
                if role not in ROLES:
                    raise FieldInvalid(f"{where}.roles has {role!r}, expected one of {', '.join(ROLES)}")
            if name in names:
                raise FieldInvalid(f"access names {name!r} twice")
            names.add(name)
            principal = Principal(name, frozenset(roles), frozenset(one.texts("specialists", ())))
            for digest in one.texts("tokens", ()):
                try:
                    parse_digest(digest, f"{where}.tokens")
                except DigestMalformed as error:
                    raise FieldInvalid(str(error)) from error
                _add(by_token, digest, principal, f"{where}.tokens")
            for identity in one.texts("identities", ()):
                _add(by_identity, identity, principal, f"{where}.identities")
            one.done()
        read.done()
        return cls(by_token, by_identity)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read an access file; raises FieldInvalid or JsonMalformed."""
        try:
            return cls.from_json(parse_json_object(path.read_bytes()))
        except OSError as error:
            raise FieldInvalid(f"{path}: access file cannot be read: {error.strerror}") from error


class AccessFile:
    """An access file, read again soon after it changed; a wrong one leaves the last good one in force.

    Args:
        refused: Told why a changed file was not taken, once for each change.
        clock: Seconds that only rise.
    Raises:
        FieldInvalid, JsonMalformed: It is wrong from the start.
    """

    def __init__(self, path: Path, refused: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._refused = refused
        self._clock = clock
        self._stamp = stamp_of(path)
        self._access = Access.read(path)
        self._look_at = clock() + LOOK_S

    def __call__(self) -> Access:
        """Return who is who now."""
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            stamp = stamp_of(self._path)
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._access = Access.read(self._path)
                except (FieldInvalid, JsonMalformed) as error:
                    self._refused(str(error))
        return self._access


def stamp_of(path: Path) -> tuple[int, int, int] | None:
    """Return what differs once a file was written or replaced; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def check_listen(listen: str, where: str) -> None:
    """Refuse an address to listen on that is not ``HOST:PORT``; raises FieldInvalid naming ``where``."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise FieldInvalid(f"{where} is {listen!r}, expected HOST:PORT")


def is_loopback(listen: str) -> bool:
    """Say whether an address ``HOST:PORT`` or ``unix:PATH`` is reached from this machine alone."""
    host = listen.rpartition(":")[0].strip("[]")
    return listen.startswith("unix:") or host == "localhost" or host == "::1" or host.startswith("127.")


def _add(found: dict[str, Principal], shown: str, principal: Principal, where: str) -> None:
    if shown in found:
        raise FieldInvalid(f"{where}: {shown[:40]!r} belongs to {found[shown].name!r} already")
    found[shown] = principal
