"""The queue's counter as LMDeploy publishes it."""

import pytest

from core.bench.run.recording import QueueCounter, read_counter, rise
from core.domain.runs import EngineQueue


@pytest.fixture
def published():
    """LMDeploy's own metrics, and a function that tells what its server would publish of them."""
    loggers = pytest.importorskip("lmdeploy.metrics.loggers")
    from lmdeploy.messages import ResponseType
    from lmdeploy.metrics.stats import RequestStats
    from prometheus_client import REGISTRY, generate_latest

    metrics = loggers.PrometheusStatLogger("tiny", max_model_len=2048)

    def after(*queued_s):
        for seconds in queued_s:
            stats = RequestStats(arrival_time=9.0, prompt_tokens=5)
            stats.queued_time, stats.scheduled_time = 10.0, 10.0 + seconds
            stats.first_token_time, stats.finish_time = 20.0, 21.0
            stats.finish_reason = ResponseType.FINISH
            metrics.record_finish(stats)
        return generate_latest().decode()

    yield after
    for collector in {each for name, each in REGISTRY._names_to_collectors.items() if "lmdeploy" in name}:
        REGISTRY.unregister(collector)


def test_what_lmdeploy_publishes_by_its_own_code(published):
    before, after = read_counter(published()), read_counter(published(0.25, 0.5, 0.0))
    assert before == QueueCounter(total_s=0.0, requests=0)
    assert rise("a", before, after) == EngineQueue(lane="a", total_s=0.75, requests=3)
