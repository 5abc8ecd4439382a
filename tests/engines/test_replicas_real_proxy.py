"""Two scripted servers behind LMDeploy's own proxy."""

import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.domain.specs import EngineKind
from core.engines.manager import EngineManager
from core.engines.resolve import find_endpoint
from tests.engines.replica_stand_ins import KEY, TwoGpus, rows
from tests.unit.engines.engine_stand_ins import lane_in, settings_in

pytest.importorskip("lmdeploy", reason="LMDeploy has wheels for Linux on x86-64 only")


def ask(url, body, key=KEY):
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    request = urllib.request.Request(url, data=json.dumps(body).encode(), headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


def test_replicas_behind_lmdeploys_proxy_share_the_requests(tmp_path):
    lane = lane_in(tmp_path, "x2", EngineKind.TURBOMIND, replicas=2, start_timeout_s=180.0)
    settings = settings_in(tmp_path)
    manager = EngineManager(settings, [lane], rows=rows(proxy=None), gpu=TwoGpus())
    try:
        manager.ensure("x2")
        manager.wait_until_healthy("x2", 200)
        url = find_endpoint(settings, lane).url
        body = {"model": "x2", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: ask(f"{url}/chat/completions", body), range(24)))
        logs = [manager.log_tail("x2", 200, replica=number) for number in (1, 2)]
        refused = []
        for path, content in (
            ("/v1/chat/completions", body),
            ("/nodes/add", {"url": "http://127.0.0.1:9", "status": {"models": ["x2"]}}),
        ):
            with pytest.raises(urllib.error.HTTPError) as caught:
                ask(url.removesuffix("/v1") + path, content, key="another")
            refused.append(caught.value.code)
    finally:
        manager.close()
    assert all("The" in answer and "Paris." in answer for answer in answers)
    served = [log.count("POST /v1/chat/completions") for log in logs]
    assert sum(served) == 24
    assert min(served) > 0
    assert refused == [401, 401]
