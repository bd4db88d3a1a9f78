"""`align serve` on the real vLLM: it answers, with adapters by name, scores like Transformers, and ends whole."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

pytest.importorskip("vllm")

START_SECONDS = 180
QUESTION = [{"role": "user", "content": "where is the river inn?"}]


@pytest.fixture(scope="module")
def base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's tokenizer with heads as wide as vLLM's attention wants them, and an adapter in `adapter`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("serve") / "base"
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(tiny_model, hidden_size=64, head_dim=32, intermediate_size=128)
    LlamaForCausalLM(config).save_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder)
    lora = LoraConfig(r=4, task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False)
    get_peft_model(model, lora).save_pretrained(folder / "adapter")
    for path in (folder, folder / "adapter"):
        AutoTokenizer.from_pretrained(tiny_model).save_pretrained(path)
    return folder


@contextmanager
def serving(
    tmp_path: Path, *arguments: object, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`align serve` with its address, once it has printed how to call it; its whole group is gone afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    small = {"VLLM_CPU_KVCACHE_SPACE": "1", "TMPDIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from alignment.cli import main; main()",
            "serve",
            *map(str, arguments),
            "-p",
            str(port),
        ],
        env=os.environ | small | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def wait_for(url: str, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise AssertionError(process.communicate())
        try:
            urllib.request.urlopen(f"{url}/health").close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("not ready in time")


def post(url: str, body: dict) -> dict:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


@pytest.mark.timeout(400)
def test_base_and_adapter_answer_and_rollouts_come_from_them(base: Path, tmp_path: Path) -> None:
    from alignment.models import ModelConfig
    from alignment.rollouts import RolloutConfig, collect_rollouts
    from rollout.endpoint import Endpoint
    from rollout.types import Sampling

    (tmp_path / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": f"the inn {i}"}) + "\n" for i in range(8))
    )
    with serving(tmp_path, base, "--adapter", f"tuned={base}/adapter") as (process, url):
        wait_for(url, process)
        greedy = {"messages": QUESTION, "temperature": 0, "max_tokens": 12}
        said = {
            name: post(f"{url}/v1/chat/completions", greedy | {"model": name})["choices"][0]["message"][
                "content"
            ]
            for name in (str(base), "tuned")
        }
        assert said[str(base)] != said["tuned"]

        def config(run: str) -> RolloutConfig:
            return RolloutConfig(
                run=str(tmp_path / run), engine="openai", policy=ModelConfig(path="tuned"), completions=3,
                endpoint=Endpoint(base_url=f"{url}/v1"), prompts=str(tmp_path / "prompts.jsonl"), store=None,
                sampling=Sampling(max_new_tokens=8),
            )  # fmt: skip

        figures = collect_rollouts(config("a"))
        assert (figures["prompts"], figures["answers"], figures["failed"]) == (8, 24, 0)
        assert figures["tokens"] > 24
        group = psutil.Process(process.pid).children(recursive=True)
        assert len(group) >= 2
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert f"{base}, tuned at {url}/v1" in out
    assert "align rollout engine=openai policy.path=tuned" in out
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in group)


@pytest.mark.timeout(400)
def test_a_reward_model_scores_as_transformers_does(base: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from reward.learned import LearnedScorer

    torch.manual_seed(1)
    AutoModelForSequenceClassification.from_pretrained(base, num_labels=1).save_pretrained(tmp_path / "whole")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "whole")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole")
    tuned = get_peft_model(model, LoraConfig(r=4, task_type="SEQ_CLS", init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "reward")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "reward")
    talk = [*QUESTION, {"role": "assistant", "content": "near the old bridge"}]
    expected = LearnedScorer(tmp_path / "reward").score([talk])[0]
    with serving(tmp_path, tmp_path / "reward") as (process, url):
        wait_for(url, process)
        process.stdout.readline()
        body = json.loads(re.search(r"-d '(.*)'$", process.stdout.readline().strip())[1])
        reply = post(f"{url}/classify", body | {"messages": talk})
    assert reply["data"][0]["probs"] == pytest.approx([expected], abs=1e-3)


@pytest.mark.timeout(400)
def test_out_of_space_for_keys_and_values_says_so(base: Path, tmp_path: Path) -> None:
    long = tmp_path / "long"
    long.mkdir()
    for file in base.iterdir():
        if file.is_file():
            (long / file.name).write_bytes(file.read_bytes())
    config = json.loads((base / "config.json").read_text())
    (long / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1 << 22}))
    with serving(tmp_path, long) as (process, _):
        _, errors = process.communicate(timeout=START_SECONDS)
    assert process.returncode == 1
    assert re.search(r"error: the server died at start .*KV cache.*--max-model-len needs less", errors), (
        errors
    )
