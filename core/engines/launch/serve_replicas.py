"""Runs several servers of one model behind LMDeploy's proxy, as the leader of one engine's processes.

Run as a script by the engine's own Python, so it imports nothing of LMDyno. Its own output, and the proxy's,
is the engine's log; each replica has a log beside it, and a file tells how the replicas are. A replica that
can't start ends all of them, as an engine that can't start is no engine; one that dies later is taken out of
the proxy, and the others go on answering. When the last one is gone, or the proxy, all end.

    serve_replicas.py --port 4711 --name engine-fp16 --devices 0 --devices 1 -- MODEL --backend turbomind …

The proxy is this script too: `serve_replicas.py proxy --port 4711 --replicas 2`. Three things differ from
`lmdeploy serve proxy`. It begins without the servers that an earlier proxy left in LMDeploy's own file. It
answers `/health`, with 200 from the moment that all replicas have been added. And the addresses that add and
remove servers need the key too: whoever could add a server would get the prompts.
"""

import argparse
import contextlib
import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# The folder of this script would come before every installed package.
sys.path[:] = [place for place in sys.path if place != str(Path(__file__).parent)]

HOST = "127.0.0.1"
PROXY = "proxy"
"""The first argument of the process that is the proxy."""
HERE = Path(__file__).parent
KEY_VARIABLE = "LMDYNO_ENGINE_KEY"
POLL_S = 0.2
TIMEOUT_S = 2.0
GRACE_S = 8.0
"""How long the others may take to end when one end makes all end."""
TOLD_LINES = ("Object cache budget", "slab_size", "Fallback to pytorch engine")
"""What LMDyno reads in the log of an engine, and so must stand in the log of this one."""
_PR_SET_PDEATHSIG = 1


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def request(port: int, method: str, path: str, body: object = None, *, host: str = HOST) -> bool:
    """Whether it was answered with 200."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get(KEY_VARIABLE)}"}
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def end_with_leader() -> Callable[[], None] | None:
    """Return what a child does before it runs: ask Linux to be ended when the leader is, however
    that ends.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Replica:
    """One server, on its own GPUs."""

    def __init__(self, number: int, devices: str, options: argparse.Namespace) -> None:
        self.number = number
        self.devices = devices
        self.log = Path(f"{options.name}~{number}.log")
        self.port = free_port()
        self.state = "starting"
        self.since = time.time()
        self.exit_code: int | None = None
        with open(self.log, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)):
            pass
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, options.engine, *options.arguments, "--server-port", str(self.port)],
                env={**os.environ, "CUDA_VISIBLE_DEVICES": devices},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=end_with_leader(),
            )

    def to(self, state: str) -> None:
        self.state, self.since = state, time.time()

    def node(self, model: str) -> object:
        return {"url": f"http://{HOST}:{self.port}", "status": {"models": [model]}}

    def facts(self) -> object:
        return {
            "number": self.number,
            "state": self.state,
            "since_s": self.since,
            "pid": self.process.pid if self.exit_code is None else None,
            "port": self.port,
            "exit_code": self.exit_code,
        }


class Group:
    """The replicas and their proxy."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.replicas = [
            Replica(number, devices, options) for number, devices in enumerate(options.devices, start=1)
        ]
        self.proxy = subprocess.Popen(
            [
                sys.executable,
                *([options.proxy] if options.proxy else [__file__, PROXY]),
                "--host",
                options.host,
                "--port",
                str(options.port),
                "--replicas",
                str(len(self.replicas)),
            ],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
            stdin=subprocess.DEVNULL,
            preexec_fn=end_with_leader(),
        )
        self.ending = False
        self.write()

    def write(self) -> None:
        """Write the replicas' states atomically."""
        file = Path(f"{self.options.name}~replicas.json")
        draft = file.with_suffix(".draft")
        facts = {"leader": os.getpid(), "replicas": [replica.facts() for replica in self.replicas]}
        draft.write_text(json.dumps(facts), "utf-8")
        draft.replace(file)

    def run(self) -> int:
        """Run until no replica answers any more; return the exit code."""
        while not self.ending:
            if self.proxy.poll() is not None:
                say(f"the proxy has ended with {self.proxy.returncode}")
                return 1
            for replica in self.replicas:
                if self.look_at(replica):
                    self.write()
                if replica.state == "failed" and any(other.state == "starting" for other in self.replicas):
                    return 1
            if all(replica.state == "failed" for replica in self.replicas):
                say("no replica is left")
                return 1
            time.sleep(POLL_S)
        return 0

    def look_at(self, replica: Replica) -> bool:
        """Note what has happened to a replica; whether anything has."""
        if replica.state == "failed":
            return False
        replica.exit_code = replica.process.poll()
        if replica.exit_code is not None:
            self.tell_proxy("/nodes/remove", replica)
            replica.to("failed")
            text = replica.log.read_text("utf-8", "replace")
            say(f"{text[-8000:]}\nreplica {replica.number} has ended with {replica.exit_code}")
            return True
        if replica.state == "starting" and request(replica.port, "GET", "/health"):
            if not self.tell_proxy("/nodes/add", replica):
                return False  # the proxy still loads
            replica.to("healthy")
            self.tell_start(replica)
            return True
        return False

    def tell_proxy(self, path: str, replica: Replica) -> bool:
        options = self.options
        return request(options.port, "POST", path, replica.node(options.model), host=options.host)

    def tell_start(self, replica: Replica) -> None:
        for line in replica.log.read_text("utf-8", "replace").splitlines():
            if any(words in line for words in TOLD_LINES):
                say(f"[replica {replica.number}] {line}")
        say(f"replica {replica.number} is ready on GPU {replica.devices or '-'}")

    def end(self) -> None:
        """End all of them. Those that a signal to the whole group has reached are given time to."""
        processes = [self.proxy, *(replica.process for replica in self.replicas)]
        for patience_s, how in ((1.0, signal.SIGTERM), (GRACE_S, signal.SIGKILL), (GRACE_S, signal.SIGKILL)):
            deadline = time.monotonic() + (patience_s if self.ending or how == signal.SIGKILL else 0)
            while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
                time.sleep(0.05)
            for process in processes:
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.send_signal(how)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default=HOST, help="of the proxy")
    parser.add_argument("--port", type=int, required=True, help="of the proxy")
    parser.add_argument("--name", required=True, help="how the names of files in this folder begin")
    parser.add_argument("--model", required=True, help="the id that the replicas serve the model under")
    parser.add_argument("--devices", action="append", required=True, help="CUDA_VISIBLE_DEVICES of a replica")
    parser.add_argument("--engine", default=str(HERE / "serve_lmdeploy.py"))
    parser.add_argument("--proxy", help="a script in place of LMDeploy's proxy")
    parser.add_argument("arguments", nargs="*", help="of each server, after --")
    return parser.parse_args(arguments)


def serve_proxy(arguments: Sequence[str]) -> None:
    """Hand over to LMDeploy's proxy, the one address of the replicas."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default=HOST)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--replicas", type=int, required=True)
    options = parser.parse_args(arguments)
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


def main() -> None:
    if sys.argv[1:2] == [PROXY]:
        serve_proxy(sys.argv[2:])
        return
    group = Group(parse())

    def stop(*_: object) -> None:
        group.ending = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    code = 1
    try:
        code = group.run()
    finally:
        group.end()
    sys.exit(code)


if __name__ == "__main__":
    main()
