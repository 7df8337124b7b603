"""What a scrape of a gateway at work shows."""

from pathlib import Path

from perf.processes import free_port
from tests.gateway.deployment import Deployment
from tests.gateway.stories import run, start

QUANTILES = ("0.5", "0.9", "0.95")


def test_a_scrape_counts_every_answer_its_time_its_queue_and_its_batch(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        port = free_port()
        deployment.settings |= {"metrics_port": port, "engine_limit": "gradient"}
        bundle = ("bundle", (await start(deployment)).primary)
        for _ in range(12):
            assert not (await deployment.decide()).fallback.used
        deployment.kill("worker")
        assert (await deployment.decide()).fallback.used

        found = await deployment.scrape()
        who, primary = ("specialist", "brand"), ("arm", "primary")
        worker = ("worker", str(tmp_path / "worker.sock"))
        assert found["interlock_decide_seconds_count", primary, who] == 13
        assert found["interlock_in_time_total", primary, who] == 12
        fallbacks = {
            dict(key[1:])["reason"]: n
            for key, n in found.items()
            if key[0] == "interlock_fallbacks_total" and primary in key
        }
        assert sum(fallbacks.values()) == 1
        assert {"no_time", "overloaded", "holdback"} <= set(fallbacks)  # there before the first one
        assert found["interlock_refused_calls_total",] == 0
        assert found["interlock_queue_seconds_count", who] == 12
        assert found["interlock_batch_rows_bucket", ("le", "1.0"), who] == 12
        assert found["interlock_batch_rows_sum", who] == 12
        assert found["interlock_worker_in_flight", worker] == 0
        assert found["interlock_worker_connected", worker] == 0
        assert found["interlock_worker_expected_seconds", worker] > 0
        assert found["interlock_engine_limit", bundle] == 20
        assert found["interlock_engine_in_flight", bundle] == 0
        assert found["interlock_engine_waiting", bundle] == 0
        quantiles = [
            found["interlock_engine_finish_seconds", bundle, ("quantile", q), ("size", "7")] for q in QUANTILES
        ]
        assert 0 < quantiles[0] <= quantiles[1] <= quantiles[2]

    run(tmp_path, story)
