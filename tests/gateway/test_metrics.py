"""What a scrape of a gateway at work shows."""

import asyncio
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from perf.processes import free_port
from tests.gateway.deployment import PATIENCE_S, Deployment
from tests.gateway.test_processes import run, start


def test_a_scrape_counts_every_answer_its_time_its_queue_and_its_batch(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        port = free_port()
        deployment.settings["metrics_port"] = port
        await start(deployment)
        for _ in range(3):
            assert not (await deployment.decide()).fallback.used
        deployment.kill("worker")
        assert (await deployment.decide()).fallback.used

        def scrape() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as page:
                return str(page.read().decode())

        found = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(await asyncio.to_thread(scrape))
            for sample in family.samples
        }
        who, primary = ("specialist", "brand"), ("arm", "primary")
        worker = ("worker", str(tmp_path / "worker.sock"))
        assert found["interlock_decide_seconds_count", primary, who] == 4
        assert found["interlock_in_time_total", primary, who] == 3
        assert found["interlock_queue_seconds_count", who] == 3
        assert found["interlock_batch_rows_bucket", ("le", "1.0"), who] == 3
        assert found["interlock_batch_rows_sum", who] == 3
        assert found["interlock_worker_in_flight", worker] == 0
        assert found["interlock_worker_connected", worker] == 0
        assert found["interlock_worker_expected_seconds", worker] > 0

    run(tmp_path, story)
