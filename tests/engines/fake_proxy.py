"""What the leader of replicas needs of LMDeploy's proxy, in the standard library: health, add and remove."""

import argparse
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int)
    parser.add_argument("--replicas", type=int)
    options = parser.parse_args()
    nodes, key, complete = set(), os.environ["LMDYNO_ENGINE_KEY"], []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if len(nodes) == options.replicas:
                complete.append(True)
            self.answer(200 if complete and nodes else 503)

        def do_POST(self):
            node = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.headers["authorization"] != f"Bearer {key}":
                self.answer(401)
                return
            change = nodes.add if self.path == "/nodes/add" else nodes.discard
            change(node["url"])
            self.answer(200)

        def answer(self, status):
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, template, *arguments):
            """Nothing."""

    ThreadingHTTPServer((options.host, options.port), Handler).serve_forever(0.05)


if __name__ == "__main__":
    main()
