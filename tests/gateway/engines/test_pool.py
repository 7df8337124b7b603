"""What a plan that is superseded leaves behind in workers: nothing."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from gateway.engines.pool import Pool
from gateway.serving.ports import EngineLink
from protos.contract.bundle import BundleStore

KEPT, LOADING, READY = ("sha256:" + c * 64 for c in "abc")


@dataclass(eq=False)
class FakeLink:
    wanted: set[str]
    ready: set[str]
    preloads: set[str] = field(default_factory=set)
    unloaded: list[str] = field(default_factory=list)

    def unload(self, bundle: str) -> None:
        self.unloaded.append(bundle)


def test_a_bundle_that_is_still_loading_when_its_plan_is_superseded_is_unloaded() -> None:
    link = FakeLink(wanted={KEPT, LOADING, READY}, ready={KEPT, READY})
    Pool([cast(EngineLink, link)], BundleStore(Path()).manifest).keep_only({KEPT})
    assert sorted(link.unloaded) == [LOADING, READY]
