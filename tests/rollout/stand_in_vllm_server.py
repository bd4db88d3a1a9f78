"""A stand-in for a vLLM server: a real HTTP server with vLLM's routes and words, for faults that are hard to provoke.

It is no language model: tokens are drawn by the hash of what it has loaded, the prompt and the seed, so equal requests
get equal answers wherever they are asked. tests/vllm has the same engine on the real thing.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

VOCABULARY = 320
BASE = "stand-in-base"


class StandInVllm(ThreadingHTTPServer):
    """`script`: what to do with the first completions: "drop", "hang", "garbage", "abort", "nan" or a status.

    max_rank: None takes no adapters. says: of a list of ids their log-probabilities, where the base is compared.
    refuses: by route, a status and the words, or "hang". foreign: it is no vLLM at all.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *script, max_rank=16, context=256, vocabulary=VOCABULARY, port=0, **options):
        super().__init__(("127.0.0.1", port), Handler)
        self.script, self.max_rank, self.context, self.vocabulary = (
            list(script),
            max_rank,
            context,
            vocabulary,
        )
        self.says, self.refuses = options.get("says"), options.get("refuses", {})
        self.open_to_trainers = options.get("open_to_trainers", True)
        self.foreign = options.get("foreign", False)
        self.mode = options.get("mode", "processed_logprobs")
        self.latency, self.busy_cache = options.get("latency", 0.0), options.get("busy_cache", False)
        self.adapters: dict[str, str] = {}
        self.weights = "default"
        self.loaded: list[str] = []
        self.answered: list[dict] = []
        self.busy = self.busiest = 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def start_again(self):
        """As after a crash: nothing that was delivered is there."""
        self.adapters, self.weights = {}, "default"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, *_):
        """A client that gave up is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandInVllm

    def do_GET(self):
        server = self.server
        base = {"id": BASE, "root": "stand-in/root", "parent": None, "max_model_len": server.context}
        adapters = [{"id": name, "root": path, "parent": BASE} for name, path in server.adapters.items()]
        lora = server.max_rank and {"max_lora_rank": server.max_rank}
        model = {"dtype": "torch.float32", "logprobs_mode": server.mode}
        known = {"/v1/models": {"data": [base, *adapters]}}
        if server.foreign:
            known = {"/v1/models": "<html>a login page</html>"}
        elif server.open_to_trainers:
            known["/server_info"] = {"vllm_config": {"model_config": model, "lora_config": lora}}
            known["/weight_info"] = {"weight_version": server.weights}
        self.reply(self.path.partition("?")[0], known)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/completions" and "stop_token_ids" in body:
            self.generate(body)
        elif self.path == "/v1/completions":
            self.look(body)
        else:
            self.control(body)

    def control(self, body):
        server = self.server
        if server.refuses.get(self.path) == "hang":
            time.sleep(3.0)
            return
        if self.path in server.refuses:
            self.send(*server.refuses[self.path])
            return
        if self.path == "/v1/load_lora_adapter":
            assert (Path(body["lora_path"]) / "adapter_model.safetensors").exists()
            server.adapters[body["lora_name"]] = body["lora_path"]
        elif self.path == "/v1/unload_lora_adapter":
            server.adapters.pop(body["lora_name"], None)
        elif self.path == "/collective_rpc":
            assert (Path(body["kwargs"]["weights_path"]) / "model.safetensors").exists()
        elif self.path == "/update_weight_version":
            server.weights = body["new_version"]
        server.loaded.append(self.path)
        self.reply(self.path, {self.path: {"success": not server.busy_cache}})

    def look(self, body):
        """Which tokens there are, and what the base says of some."""
        if max(body["prompt"]) >= self.server.vocabulary:
            self.send(400, f"Token id {max(body['prompt'])} is out of vocabulary")
            return
        said = [None, *(self.server.says(body["prompt"]) if self.server.says else []), -1.0]
        self.reply(self.path, {self.path: {"choices": [{"logprobs": {"token_logprobs": said}}]}})

    def generate(self, body):
        server = self.server
        with server.lock:
            act = server.script.pop(0) if server.script else 200
            server.busy += 1
            server.busiest = max(server.busiest, server.busy)
        try:
            time.sleep(server.latency)
            self.act(act, body)
        finally:
            with server.lock:
                server.busy -= 1

    def act(self, act, body):
        server = self.server
        if act == "drop":
            self.close_connection = True
            self.connection.close()
        elif act == "hang":
            time.sleep(3.0)
        elif act == "restart":
            server.start_again()
            self.answer(body)
        elif act in ("garbage", "abort", "nan"):
            self.answer(body, act)
        elif act != 200:
            self.send(act, "EngineCore encountered an issue.")
        else:
            self.answer(body)

    def answer(self, body, fault=None):
        server, model = self.server, body["model"]
        if model not in (BASE, *server.adapters):
            self.send(404, f"The model `{model}` does not exist.")
            return
        with server.lock:
            server.answered.append(body)
        policy = server.weights if model == BASE else model
        drawn = hashlib.sha256(json.dumps([policy, body["prompt"], body["seed"]]).encode()).digest()
        tokens = list(drawn[: min(body["max_tokens"], server.context - len(body["prompt"]))])
        said = {"token_logprobs": [-9999.0 if fault == "nan" else -t / 100 - 0.1 for t in tokens]}
        choice = {
            "token_ids": tokens,
            "logprobs": said,
            "finish_reason": "abort" if fault == "abort" else "length",
        }
        reply = {"hello": 1} if fault == "garbage" else {"model": model, "choices": [choice]}
        self.reply(self.path, {self.path: reply})

    def reply(self, route, known):
        if route in known:
            self.write(200, known[route])
        else:
            self.write(404, {"detail": "Not Found"})

    def send(self, status, message):
        self.write(status, {"error": {"message": message, "type": "error", "code": status}})

    def write(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass
