"""What several files' stories begin with."""

import pytest

from tests.controlplane.ready import Ready


@pytest.fixture(scope="session")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Ready:
    return Ready(tmp_path_factory.mktemp("ready"))
