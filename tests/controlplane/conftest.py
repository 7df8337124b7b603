"""What several files' stories begin with."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.controlplane.ready import Ready

if TYPE_CHECKING:
    from tests.controlplane.governed import Governed


@pytest.fixture(scope="session")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Ready:
    return Ready(tmp_path_factory.mktemp("ready"))


@pytest.fixture
def site(tmp_path: Path) -> "Iterator[Governed]":
    from tests.controlplane.governed import governed  # brings both planes, which most tests do without

    with governed(tmp_path) as made:
        yield made
