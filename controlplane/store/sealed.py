"""Columns of what was captured: stored sealed, read opened, and empty once erased.

What is written comes sealed from ``Vault.seal``; which vault opens it, the engine's dialect carries.
"""

import base64
import json
from typing import Any

from sqlalchemy import JSON, Engine, LargeBinary
from sqlalchemy.types import TypeDecorator

from controlplane.store.vault import Vault


def opened_by(engine: Engine, vault: Vault) -> None:
    """Have an engine's sealed columns opened by a vault."""
    engine.dialect.interlock_vault = vault  # type: ignore[attr-defined]


class SealedText(TypeDecorator[Any]):
    """A text; ``""`` stays as it is and is what an erased one reads as."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> bytes | None:
        """Take sealed bytes, or an empty text."""
        if isinstance(value, str) and value:
            raise ValueError("a captured text is written sealed")
        return b"" if value == "" else value

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        """Open it."""
        opened = dialect.interlock_vault.open(value) if value else None
        return "" if opened is None else opened.decode()


class SealedJson(TypeDecorator[Any]):
    """A JSON object; nothing kept, or erased, reads as ``{}``."""

    impl = LargeBinary
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        """Open it."""
        opened = dialect.interlock_vault.open(value) if value else None
        return {} if opened is None else json.loads(opened)


class SealedTexts(TypeDecorator[Any]):
    """A list of sealed texts; reads as those that are not erased."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        """Take sealed bytes."""
        return [base64.b64encode(one).decode() for one in value]

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        """Open them."""
        found = (dialect.interlock_vault.open(base64.b64decode(one)) for one in value or () if one)
        return [one.decode() for one in found if one is not None]
