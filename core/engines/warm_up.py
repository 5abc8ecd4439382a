"""The first request to an engine that has just loaded, which nobody measures.

First requests pay for what later ones find done: lazily loaded tokenizers, compiled kernels, filled caches.
LMDeploy warms its kernels up while starting, transformers nothing; one short answer before "healthy" puts all
engines on the same footing.
"""

import http.client
import json
import logging
from urllib.parse import urlsplit

from core.domain.specs import Endpoint

log = logging.getLogger(__name__)

_TOKENS = 16


def warm_up(endpoint: Endpoint, *, timeout_s: float) -> None:
    """Ask for one short answer and drop it; a refusal is only logged, the first real request will tell."""
    address = urlsplit(endpoint.url)
    headers = {"Content-Type": "application/json"}
    if endpoint.api_key:
        headers["Authorization"] = f"Bearer {endpoint.api_key}"
    body = json.dumps(
        {
            "model": endpoint.model,
            "messages": [{"role": "user", "content": "Count from one to ten."}],
            "max_tokens": _TOKENS,
        }
    )
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=timeout_s)
    try:
        connection.request("POST", f"{address.path}/chat/completions", body, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != http.HTTPStatus.OK:
            log.warning("engine refused its first request status=%d", answer.status)
    except (OSError, http.client.HTTPException) as exc:
        log.warning("engine did not answer its first request: %s", exc)
    finally:
        connection.close()
