"""Listens where it is told after a moment, with a child process, as vLLM does; STAND_IN names a fault."""

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KV = "To serve at least one request with the model's max seq len (32768), 3.5 GiB KV cache is needed"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(sys.argv[1:]).encode())

    def log_message(self, *_):
        pass


def main():
    fault = os.environ.get("STAND_IN")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(f"INFO [server.py:1] loading, child {child.pid}", flush=True)
    if fault == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if fault == "kv":
        print(f"(EngineCore pid=7) ERROR 01-01 00:00:00 [core.py:1] ValueError: {KV}")
        sys.exit("RuntimeError: Engine core initialization failed. See root cause above.")
    time.sleep(0.5)
    if fault == "dies":
        sys.exit("no such flag")
    arguments = dict(zip(sys.argv[1:], sys.argv[2:], strict=False))
    server = ThreadingHTTPServer((arguments["--host"], int(arguments["--port"])), Handler)
    if fault == "later":
        signal.signal(signal.SIGALRM, lambda *_: os._exit(3))
        signal.alarm(2)
    server.serve_forever()


main()
