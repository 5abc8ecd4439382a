"""Hands over to LMDeploy's proxy: the one address of a lane's replicas.

Run as a script by the engine's own Python, so it imports nothing of LMDyno.

Three things differ from `lmdeploy serve proxy`. It begins without the servers that an earlier proxy left in
LMDeploy's own file. It answers `/health`, with 200 from the moment that all replicas have been added. And
the addresses that add and remove servers need the key too: whoever could add a server would get the prompts.
"""

import argparse
import os
import sys
from pathlib import Path

# The folder of this script would come before every installed package.
sys.path[:] = [place for place in sys.path if place != str(Path(__file__).parent)]

KEY_VARIABLE = "LMDYNO_ENGINE_KEY"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--replicas", type=int, required=True)
    options = parser.parse_args()
    key = os.environ.pop(KEY_VARIABLE)

    from lmdeploy.serve.proxy import proxy
    from lmdeploy.serve.utils.server_utils import AuthenticationMiddleware

    def key_for_all_but_health(app: object) -> object:
        guard = AuthenticationMiddleware(app, [key])
        guard.skip_prefixes = ["/health"]
        return guard

    was_complete = False

    def health() -> object:
        nonlocal was_complete
        nodes = len(proxy.node_manager.nodes)
        was_complete = was_complete or nodes >= options.replicas
        status = 200 if was_complete and nodes else 503
        return proxy.JSONResponse({"status": "healthy" if status == 200 else "initializing"}, status)

    proxy.node_manager.nodes.clear()
    proxy.app.add_api_route("/health", health, response_model=None)
    proxy.app.add_middleware(key_for_all_but_health)
    proxy.proxy(
        server_name=options.host, server_port=options.port, disable_cache_status=True, log_level="WARNING"
    )


if __name__ == "__main__":
    main()
