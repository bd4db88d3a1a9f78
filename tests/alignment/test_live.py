"""The policies that answer a lead's prompt: the real engine on a tiny model, and a real HTTP endpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar

import pytest

from alignment.cli.label import live
from alignment.errors import AlignmentError, ConfigError
from alignment.live import EndpointPolicy, FolderPolicy
from labeling.errors import LabelingError

ASK = [{"role": "user", "content": "where is the river inn?"}]


class Endpoint(BaseHTTPRequestHandler):
    """Answers with the number of the request; a model called broken gets an error."""

    asked: ClassVar[list[dict]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        status = 404 if body["model"] == "broken" else 200
        message = {"role": "assistant", "content": f"answer {len(self.asked)}"}
        reply = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"],
                 "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}  # fmt: skip
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(
            json.dumps(reply if status == 200 else {"error": {"message": "no such model"}}).encode()
        )

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    Endpoint.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def test_a_folder_answers_as_often_as_asked(tiny_model):
    policy = FolderPolicy(str(tiny_model))
    answers = policy(ASK, 3)
    assert len(answers) == 3
    assert len(set(answers)) > 1  # sampled, not greedy
    assert policy.name == str(tiny_model)


def test_a_prompt_that_does_not_fit_says_so(tiny_model):
    with pytest.raises(LabelingError, match="context"):
        FolderPolicy(str(tiny_model))([{"role": "user", "content": "word " * 500}], 2)


def test_a_missing_policy_is_refused_before_serving():
    with pytest.raises(AlignmentError, match="no model at"):
        FolderPolicy("runs/nowhere")


def test_an_endpoint_is_asked_once_for_each_answer(endpoint):
    policy = EndpointPolicy(endpoint, "tiny")
    assert policy(ASK, 2) == ["answer 1", "answer 2"]
    assert policy.name == "tiny"
    assert [(body["model"], body["messages"], body["temperature"]) for body in Endpoint.asked] == [
        ("tiny", ASK, 1.0)
    ] * 2


def test_an_endpoint_that_refuses_says_why(endpoint):
    with pytest.raises(LabelingError, match="no such model"):
        EndpointPolicy(endpoint, "broken")(ASK, 2)


def test_the_command_line_names_one_policy_or_none(endpoint):
    assert live(None, None, None) is None
    assert isinstance(live(None, endpoint, "tiny"), EndpointPolicy)
    with pytest.raises(ConfigError, match="not both"):
        live("runs/ppo", endpoint, "tiny")
    with pytest.raises(ConfigError, match="--model"):
        live(None, endpoint, None)


def test_no_torch_before_the_first_prompt(tiny_model):
    code = (
        "import sys; from alignment.cli.label import live; "
        f"live({str(tiny_model)!r}, None, None); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
