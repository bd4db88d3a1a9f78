"""A scoring service over HTTP, as another team would run it, with troubles on demand."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Service(ThreadingHTTPServer):
    """Scores an answer by its length. `script`: what to do with the first requests, e.g. 503 or "hang"."""

    daemon_threads = True

    def __init__(self, *script):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = list(script)
        self.requests: list[tuple[dict, list]] = []  # headers, conversations
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/score"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self):
        assert self.path == "/score"
        conversations = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["conversations"]
        self.server.requests.append((dict(self.headers), conversations))
        act = self.server.script.pop(0) if self.server.script else 200
        if act == "drop":
            self.connection.close()
            return
        if act == "hang":
            time.sleep(1.0)
            return
        body = act.encode() if isinstance(act, str) else b"busy"
        if act == 200:
            body = json.dumps({"scores": [len(c[-1]["content"]) for c in conversations]}).encode()
        self.send_response(act if isinstance(act, int) else 200)
        if act == 302:
            self.send_header("Location", self.server.url)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
