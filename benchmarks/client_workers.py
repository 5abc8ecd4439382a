"""How many chunks a second LMDyno's load test takes in, by the number of its processes (`--workers`).

    python benchmarks/client_workers.py --out FILE [--workers 1 2 4 8 12] [--seconds 4] [--servers 4]
        [--peers PYTHON [--peers-path FOLDER] --tokenizer FOLDER [--peer-workers 1 4 12]]

With `--peers`, a Python that has guidellm and aiperf, both are measured in the same way, each with as many
workers of its own. Every figure is by the tool's own count of complete answers; the machine has nothing else
to do meanwhile, so the cores in use are those of the client and the servers.

The server costs little: a few processes that share a port and write answers that were made ahead, each event
a piece of its own as LMDeploy's server writes it. What the servers and the load test used of the cores stands
beside each figure, so that it shows whether the client was what limited it.
"""

import argparse
import asyncio
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.client_peers import Peers, Target  # noqa: E402

CHUNKS = 256
MODEL = "cheap"
START_S = 20.0
SLACK_S = 40.0
"""How much longer than its requests a load test may take, until it is stopped."""


def answer() -> bytes:
    """A whole answer: the head, an event with a token each, usage, and the end."""
    head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    events = [
        {
            **head,
            "choices": [
                {
                    "index": 0,
                    "delta": {"role": "assistant", "content": f"word{number} "},
                    "finish_reason": None,
                    "output_ids": [number],
                }
            ],
            "usage": None,
        }
        for number in range(CHUNKS)
    ]
    stop = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": "length"}
    usage = {"prompt_tokens": 7, "completion_tokens": CHUNKS, "total_tokens": 7 + CHUNKS}
    events += [{**head, "choices": [stop], "usage": None}, {**head, "choices": [], "usage": usage}]
    texts = [json.dumps(event) for event in events] + ["[DONE]"]
    pieces = [f"data: {text}\n\n".encode() for text in texts]
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + body


class Connection(asyncio.Protocol):
    """Answers each request of one connection as soon as it is whole."""

    STREAM = answer()
    MODELS = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()

    def connection_made(self, transport: Any) -> None:
        self._transport, self._received = transport, b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            length = head.partition(b"content-length:")[2].split(b"\r\n")[0].strip()
            whole = end + 4 + int(length or 0)
            if len(self._received) < whole:
                return
            self._received = self._received[whole:]
            if head.startswith(b"post "):
                self._transport.write(self.STREAM)
            else:
                size = len(self.MODELS)
                self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + self.MODELS)


async def serve(port: int) -> None:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    server = await asyncio.get_running_loop().create_server(Connection, sock=listener, backlog=1024)
    await server.serve_forever()


def wait_until_it_answers(port: int) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def cpu_s(processes: list[psutil.Process]) -> float:
    times = [process.cpu_times() for process in processes if process.is_running()]
    return sum(each.user + each.system for each in times)


def measure(port: int, workers: int, options: argparse.Namespace) -> dict[str, Any]:
    """One load test by the command line, as a user starts it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "run.json")
        words = ["bench", "--endpoint", f"http://127.0.0.1:{port}/v1", "--model", MODEL]
        words += ["--dialect", "lmdeploy", "--prompts", "examples", "--output-tokens", str(CHUNKS)]
        words += ["--concurrency", str(options.concurrency), "--seconds", f"{options.seconds:g}"]
        words += ["--workers", str(workers), "--json", str(file)]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "core", *words],
                cwd=ROOT,
                env={**os.environ, "LMDYNO_HOME": folder},
                capture_output=True,
                text=True,
                timeout=options.seconds + SLACK_S,
            )
        except subprocess.TimeoutExpired:
            return {"failed": "it took too long"}
        if not file.exists():
            return {"failed": (done.stderr or done.stdout)[-800:]}
        (point,) = json.loads(file.read_bytes())["points"]
    return {
        "chunks_per_s": point["system_tok_per_s"],
        "req_per_s": point["req_per_s"],
        "requests": point["requests"],
        "seconds": point["duration_s"],
    }


def beside_cpu_time(measured: Callable[[], dict[str, Any]], servers: list[psutil.Process]) -> dict[str, Any]:
    """The figures with what the client (its start and report included) and the servers used of the cores."""
    servers_before, client_before, began = cpu_s(servers), os.times(), time.monotonic()
    point = measured()
    client_after, took_s = os.times(), time.monotonic() - began
    return {
        **point,
        "took_s": round(took_s, 2),
        "client_cpu_s": round(sum(client_after[2:4]) - sum(client_before[2:4]), 2),
        "server_cpu_s": round(cpu_s(servers) - servers_before, 2),
    }


def tests(options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """What is measured, in order: LMDyno first, since its figures take the least time."""
    if "lmdyno" in options.tools:
        for workers in options.workers:
            yield "lmdyno", workers
    if options.peers:
        for tool in [each for each in ("guidellm", "aiperf") if each in options.tools]:
            for workers in options.peer_workers or options.workers:
                yield tool, workers


def action(
    tool: str, workers: int, port: int, options: argparse.Namespace, peers: Peers
) -> Callable[[], dict[str, Any]]:
    if tool == "lmdyno":
        return partial(measure, port, workers, options)
    target = Target(
        url=f"http://127.0.0.1:{port}",
        model=MODEL,
        workers=workers,
        concurrency=options.concurrency,
        seconds=options.peer_seconds,
    )
    return partial(peers.guidellm if tool == "guidellm" else peers.aiperf, target)


def tell(point: dict[str, Any], points: list[dict[str, Any]]) -> None:
    """One line, with the ratio to the same tool's first point."""
    first = next(each for each in points if each["tool"] == point["tool"]).get("chunks_per_s")
    speed = point.get("chunks_per_s")
    ratio = f"{speed / first:5.2f} ×" if speed and first else ""
    print(
        f"{point['tool']:9} {point['workers']:3} workers: {speed or 0:9,.0f} chunks/s {ratio}  {point}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 12])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--concurrency", type=int, default=96)
    parser.add_argument("--servers", type=int, default=4, help="processes that answer")
    parser.add_argument("--tools", nargs="+", default=["lmdyno", "guidellm", "aiperf"])
    parser.add_argument("--peers", metavar="PYTHON", help="has guidellm and aiperf")
    parser.add_argument("--peers-path", metavar="FOLDER", help="PYTHONPATH of that Python")
    parser.add_argument("--tokenizer", type=Path, metavar="FOLDER", help="for aiperf")
    parser.add_argument("--peer-workers", type=int, nargs="+", help="as --workers unless given")
    parser.add_argument("--peer-seconds", type=float, default=10.0)
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve))
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, __file__, "--serve", str(port)]
    children = [subprocess.Popen(command, stdin=subprocess.DEVNULL) for _ in range(options.servers)]
    peers = Peers(python=options.peers, path=options.peers_path, tokenizer=options.tokenizer)
    report: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "cores": len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else os.cpu_count(),
        "load_average_before": os.getloadavg(),
        "concurrency": options.concurrency,
        "versions": peers.versions() if options.peers else {},
        "points": [],
    }
    try:
        wait_until_it_answers(port)
        servers = [psutil.Process(child.pid) for child in children]
        for tool, workers in tests(options):
            act = action(tool, workers, port, options, peers)
            point = {"tool": tool, "workers": workers, **beside_cpu_time(act, servers)}
            report["points"].append(point)
            tell(point, report["points"])
            if options.out:
                options.out.write_text(json.dumps(report, indent=1), "utf-8")
    finally:
        for child in children:
            child.terminate()
            child.wait()


if __name__ == "__main__":
    main()
