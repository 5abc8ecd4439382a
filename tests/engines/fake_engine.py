"""An OpenAI-compatible server that behaves as badly as it is told to: a stand-in for a real engine.

Stdlib only, so it starts in a moment. Like real engines it listens only after it has "loaded", prints what
they print, answers `/health` and `/v1/models` and streams `/v1/chat/completions`.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
"""


def parse(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default="stand-in")
    parser.add_argument("--load-s", type=float, default=0.0, help="seconds until it listens")
    parser.add_argument("--say", action="append", default=[], help="a line to print before loading")
    parser.add_argument("--exit", type=int, help="end with this code instead of listening")
    parser.add_argument("--hang", action="store_true", help="never listen")
    parser.add_argument("--silent", action="store_true", help="listen and never answer")
    parser.add_argument("--answer", default="The capital of France is Paris.")
    parser.add_argument("--chunk-s", type=float, default=0.01, help="seconds before each chunk")
    parser.add_argument("--chunks", type=int, help="go on repeating the answer up to so many chunks")
    parser.add_argument("--die-after", type=int, help="kill itself after so many chunks of an answer")
    parser.add_argument("--child", choices=["plain", "session"], help="leave a child that ignores SIGTERM")
    parser.add_argument("--stubborn", action="store_true", help="ignore SIGTERM")
    parser.add_argument(
        "--steal-port-once", help="a marker file; if it is missing, make it and report the port as taken"
    )
    return parser.parse_args(arguments)


def say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main():
    options = parse()
    if options.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for line in options.say:
        say(line)
    if options.child:
        subprocess.Popen([sys.executable, "-c", STUBBORN], start_new_session=options.child == "session")
    if options.steal_port_once and not Path(options.steal_port_once).exists():
        Path(options.steal_port_once).touch()
        say(
            f"ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', {options.port}): "
            "address already in use"
        )
        sys.exit(3)
    time.sleep(options.load_s)
    if options.exit is not None:
        sys.exit(options.exit)
    if options.hang:
        time.sleep(3600)
    if options.silent:
        with socket.create_server((options.host, options.port)):
            time.sleep(3600)
    server = Server((options.host, options.port), handler_for(options))
    say(f"INFO:     Uvicorn running on http://127.0.0.1:{options.port} (Press CTRL+C to quit)")
    signal.signal(signal.SIGTERM, signal.SIG_IGN if options.stubborn else lambda *_: stop(server))
    server.serve_forever(poll_interval=0.05)


def stop(server):
    threading.Thread(target=server.shutdown, daemon=True).start()


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A client that hangs up is no news: its traceback would hide what the engine says itself."""


def handler_for(options):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            if self.path == "/health":
                self.reply({"status": "ok"})
            elif self.path == "/v1/models":
                self.reply({"object": "list", "data": [{"id": options.model, "object": "model"}]})
            else:
                self.send_error(404)

        def do_POST(self):
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("connection", "close")
            self.end_headers()
            words = options.answer.split(" ")
            count = options.chunks or len(words)
            try:
                self.event({"role": "assistant"})
                for index in range(count):
                    time.sleep(options.chunk_s)
                    if options.die_after == index:
                        os.kill(os.getpid(), signal.SIGKILL)
                    word = words[index % len(words)]
                    self.event({"content": word if index == 0 else f" {word}"})
                self.event({}, finish_reason="stop", usage=(12, count + 1))
            except BrokenPipeError:
                pass
            self.close_connection = True

        def event(self, delta, finish_reason=None, usage=None):
            chunk = {
                "id": "1",
                "object": "chat.completion.chunk",
                "created": 0,
                "model": options.model,
                "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
            }
            if usage:
                prompt, output = usage
                chunk["usage"] = {
                    "prompt_tokens": prompt,
                    "completion_tokens": output,
                    "total_tokens": prompt + output,
                }
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.flush()

        def reply(self, body):
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, template, *arguments):
            say(f'INFO:     127.0.0.1 - "{self.requestline}" {arguments[1]}')

    return Handler


if __name__ == "__main__":
    main()
