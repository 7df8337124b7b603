"""A deployment whose first primary serves and whose better candidate is evaluated: made once, copied by every story."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from protos import control_pb2
from tests.controlplane.deployment import Deployment

Story = Callable[[Deployment], Awaitable[None]]


class Ready:
    """Its processes have ended; a story's own start where they left off.

    Attributes:
        old, new: The primary, and the candidate that is better.
        evidence: A copy of the folder about the first promotion, and ``evidence_digest`` of its manifest.
    """

    old: str
    new: str
    evidence_digest: str

    def __init__(self, root: Path) -> None:
        self.root, self.evidence = root, root / "evidence-taken"
        self._deployment = Deployment(root)
        asyncio.run(self._make())

    async def _make(self) -> None:
        async with self._deployment as deployment:
            self.old = await deployment.first_primary()
            self.new = deployment.bundle(1.0)
            await deployment.evaluated(self.new)
            rows = (await deployment.ask("ListRollouts", control_pb2.ListRolloutsRequest())).rollouts
            found = await deployment.ask("GetEvidence", control_pb2.GetEvidenceRequest(rollout=rows[0].id))
            # The control plane writes the folder anew whenever the rollout goes on.
            shutil.copytree(found.path, self.evidence)
            self.evidence_digest = found.digest

    @asynccontextmanager
    async def copy(self, root: Path, more_settings: str = "") -> AsyncIterator[Deployment]:
        """Run a copy in a folder of its own, with more in its settings where that is asked for."""
        copied = self._deployment.copied(root)
        copied.more_settings = more_settings
        async with copied as deployment:
            await deployment.serving()
            yield deployment

    def run(self, root: Path, story: Story, more_settings: str = "") -> None:
        """Tell a story in a copy."""

        async def whole() -> None:
            async with self.copy(root, more_settings) as deployment:
                await story(deployment)

        asyncio.run(whole())
