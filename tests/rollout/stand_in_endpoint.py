"""A stand-in for a closed model's endpoint: a real HTTP server that speaks the OpenAI chat protocol.

It is no language model: its answers are words drawn by the hash of the request, so equal requests get equal answers.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = "stand-in-policy"
WORDS = ["the", "river", "inn", "serves", "cheap", "fish", "near", "an", "old", "bridge", "in", "the", "city"]


class StandInEndpoint(ThreadingHTTPServer):
    """`script`: what to do with the first requests: a status, or "drop", "hang", "html".

    refuses: parameters that get a 400, as endpoints that do not know them do.
    gives: at most so many choices a reply. retry_after: sent with a 429 or 503.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *script, refuses=(), gives=99, key=None, latency=0.0, retry_after=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.refuses, self.gives = list(script), refuses, gives
        self.key, self.latency, self.retry_after = key, latency, retry_after
        self.bodies: list[dict] = []
        self.headers: list[dict] = []
        self.busy = self.busiest = 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def base_url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, *_):
        """A client that was killed is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandInEndpoint

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.headers.append(dict(self.headers))
            act = self.server.script.pop(0) if self.server.script else 200
            self.server.busy += 1
            self.server.busiest = max(self.server.busiest, self.server.busy)
        try:
            time.sleep(self.server.latency)
            self.reply(body, act)
        finally:
            with self.server.lock:
                self.server.busy -= 1

    def reply(self, body, act):
        server = self.server
        refused = next((p for p in server.refuses if p in body), None)
        if act == "drop":
            self.close_connection = True
            self.connection.close()
        elif act == "hang":
            time.sleep(1.0)
        elif act == "html":
            self.send(200, b"<html>a login page</html>")
        elif act != 200:
            self.send(act, error("busy"))
        elif server.key and self.headers["Authorization"] != f"Bearer {server.key}":
            self.send(401, error(f"wrong key {self.headers['Authorization']}"))
        elif body["model"] != MODEL:
            self.send(404, error(f"the model {body['model']!r} does not exist"))
        elif refused:
            self.send(400, error(f"Unsupported parameter: '{refused}'", param=refused))
        elif "forbidden" in body["messages"][-1]["content"]:
            self.send(400, error("this prompt is against the rules"))
        else:
            self.send(200, json.dumps(chat_completion(body, server.gives)).encode())

    def send(self, status, content):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if status in (429, 503) and self.server.retry_after is not None:
            self.send_header("Retry-After", str(self.server.retry_after))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def chat_completion(body, gives):
    choices = []
    for index in range(min(body.get("n", 1), gives)):
        drawn = hashlib.sha256(json.dumps([body["messages"], body.get("seed", 0) + index]).encode()).digest()
        text = " ".join(WORDS[byte % len(WORDS)] for byte in drawn[: 2 + drawn[31] % 3])
        message = {"role": "assistant", "content": text}
        choices.append({"index": index, "message": message, "finish_reason": "stop"})
    tokens = sum(len(c["message"]["content"].split()) for c in choices)
    return {
        "id": "stand-in", "object": "chat.completion", "created": 0, "model": MODEL, "choices": choices,
        "usage": {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1},
    }  # fmt: skip


def error(message, param=None):
    return json.dumps({"error": {"message": message, "type": "error", "param": param, "code": None}}).encode()
