"""One visitor's giant stream beside another visitor's turn: does it move the other's timestamps?

    python -m benchmarks.giant_stream [--mb 100] [--turns 5]

Both requests run in one meter. The giant's server sends so many megabytes without a newline as fast as it
can, again and again; the other's server keeps a schedule (`tests/scripted_server.py`). TTFT and TPOT are told
alone and beside the giants.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.crowd_stand import server  # noqa: E402
from core.domain.turns import RequestRecord  # noqa: E402
from core.meter.link import MeterLink  # noqa: E402
from core.settings import Settings  # noqa: E402
from tests.unit.meter.meter_samples import remote_lane, turn_plan  # noqa: E402

FIRST_CHUNK_S, INTERVAL_S, CHUNKS = 0.15, 0.012, 250
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: "
_SERVE = "--serve"


def serve(mb: int) -> None:
    """Answer each connection with a stream without end or newline, up to the size."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_flood, args=(connection, mb), daemon=True).start()


def _flood(connection: socket.socket, mb: int) -> None:
    piece = b"x" * 2**20
    with connection:
        connection.recv(65_536)
        try:
            connection.sendall(_HEAD)
            for _ in range(mb):
                connection.sendall(piece)
        except OSError:
            return  # the meter had enough


@contextmanager
def giant(mb: int) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.giant_stream", _SERVE, "--mb", str(mb)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
    finally:
        process.terminate()
        process.wait(10)


def ask(link: MeterLink, url: str, model: str) -> RequestRecord:
    """One turn of one request, followed to its end."""
    plan = turn_plan(remote_lane(model, url, model))
    link.start(plan)
    for update in link.follow(plan.id, plan.requests[0].id):
        if update and update.record:
            return update.record
    raise RuntimeError("the turn has no end")


def told(name: str, records: list[RequestRecord]) -> str:
    ttft = [(record.ttft_s or 0) * 1e3 for record in records]
    tpot = [(record.tpot_s or 0) * 1e3 for record in records]
    gaps = [gap * 1e3 for record in records if record.timing for gap in record.timing.icl_s]
    return (
        f"| {name} | {len(records)} | {statistics.median(ttft):.1f} ({max(ttft):.1f}) "
        f"| {statistics.median(tpot):.2f} ({max(tpot):.2f}) | {max(gaps):.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mb", type=int, default=100)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument(_SERVE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.mb)
        return
    scenario = {
        "steady": {"chunks": CHUNKS, "first_chunk_s": FIRST_CHUNK_S, "interval_s": INTERVAL_S},
    }
    with (
        tempfile.TemporaryDirectory(prefix="lmdyno-giant-") as name,
        server(scenario) as url,
        giant(options.mb) as giant_url,
    ):
        home = Path(name)
        link = MeterLink(
            Settings(home=home, lanes_file=home / "lanes", database_url=f"sqlite:///{home / 'lmdyno.db'}")
        )
        with closing(link):
            ask(link, url, "steady")  # imports and connections come first
            alone = [ask(link, url, "steady") for _ in range(options.turns)]
            stop, giants = threading.Event(), []

            def keep_flooding() -> None:
                while not stop.is_set():
                    giants.append(ask(link, giant_url, "giant"))

            floods = threading.Thread(target=keep_flooding)
            floods.start()
            time.sleep(0.5)
            beside = [ask(link, url, "steady") for _ in range(options.turns)]
            stop.set()
            floods.join()
    ends = sorted({record.error.code if record.error else "no error" for record in giants})
    sys.stdout.write(
        f"Schedule: TTFT {FIRST_CHUNK_S * 1e3:.0f} ms, TPOT {INTERVAL_S * 1e3:.0f} ms, {CHUNKS} tokens. "
        f"Load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.\n\n"
        "| the other's turn | n | TTFT, median (most), ms | TPOT, median (most), ms | longest gap, ms |\n"
        "|---|---|---|---|---|\n"
        f"{told('alone', alone)}\n{told(f'beside {len(giants)} giants', beside)}\n\n"
        f"The giants ended with: {', '.join(ends)}.\n"
    )


if __name__ == "__main__":
    main()
