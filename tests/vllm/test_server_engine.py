"""The engine on real vLLM servers, started by `align serve --for-training`: deliveries, kills, wrong servers."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from alignment.cli import run
from alignment.runs import RunFolder
from rollout import RolloutError, Sampling
from rollout.vllm_server_engine import VllmServerEngine
from tests.alignment.ppo_config import write_ppo_config, write_prompts
from tests.vllm.plain_forward import gap

pytest.importorskip("vllm")
pytestmark = pytest.mark.timeout(400)

START_SECONDS = 240
SMALL = ["--dtype", "float32", "--kv-cache-memory-bytes", str(1 << 27)]
STOP = 1
PROMPTS = [[5, 6, 7], [8], list(range(9, 60)), [15, 16], [9, 10, 11, 12, 13, 14]]
SAMPLING = Sampling(max_new_tokens=20)
Policy = Callable[..., Any]


class TrainingServer:
    """`align serve MODEL --for-training` on a port of its own; it may be killed and started again."""

    def __init__(self, model: Path, folder: Path, *arguments: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [sys.executable, "-c", "from alignment.cli import main; main()", "serve", str(model)]
        self.command += ["--for-training", "--port", str(self.port), *arguments, "--", *SMALL]
        quiet = {"HF_HUB_OFFLINE": "1", "TMPDIR": str(folder)}
        self.environment, self.log = os.environ | quiet, folder / f"serve-{self.port}.log"
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, env=self.environment, stdout=log, stderr=log)

    def wait(self) -> TrainingServer:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/health").close()
                return self
            except OSError:
                time.sleep(0.3)
        raise AssertionError(self.log.read_text())

    @property
    def family(self) -> list[psutil.Process]:
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def kill(self) -> None:
        """As a machine that goes down: everything at once."""
        family = self.family
        for process in family:
            process.kill()
        psutil.wait_procs(family, timeout=20)
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


@pytest.fixture(scope="module")
def servers(wide_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[TrainingServer]]:
    """Two servers of the same base that take adapters up to rank 8."""
    folder = tmp_path_factory.mktemp("servers")
    both = [TrainingServer(wide_model, folder, "--lora-rank", "8") for _ in range(2)]
    try:
        yield [server.wait() for server in both]
    finally:
        for server in both:
            server.stop()


@pytest.fixture
def policy(wide_model: Path) -> Policy:
    """Makes the model with a random adapter of rank 4."""

    def make(seed: int, **settings: Any) -> Any:
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(wide_model, **settings)
        lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        return get_peft_model(base, lora).eval()

    return make


@pytest.fixture
def engine_on(wide_model: Path) -> Iterator[Callable[..., VllmServerEngine]]:
    engines: list[VllmServerEngine] = []

    def make(servers: list[TrainingServer], **options: Any) -> VllmServerEngine:
        settings = {"model": str(wide_model), "stop_token_ids": [STOP], "timeout_seconds": 60.0} | options
        engines.append(VllmServerEngine([server.url for server in servers], **settings))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def test_more_prompts_than_a_step_holds(servers: Any, engine_on: Any) -> None:
    """vLLM on a CPU does not survive a prompt with a seed that it takes in over two steps."""
    engine = engine_on(servers)
    completions = engine.generate([list(range(9, 60))] * 400, Sampling(max_new_tokens=2))
    assert len(completions) == 400


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_an_adapter_is_delivered_again_and_again_and_is_exact(
    servers: Any, engine_on: Any, policy: Policy, temperature: float
) -> None:
    engine = engine_on(servers, adapter_rank=4)
    sampling = Sampling(max_new_tokens=40, temperature=temperature)
    for seed in (1, 2):
        version = engine.sync(policy(seed))
        completions = engine.generate(PROMPTS * 4, sampling)
        assert gap(policy(seed), PROMPTS * 4, completions, temperature) < 1e-3
        assert {c.policy_version for c in completions} == {version}
    assert gap(policy(1), PROMPTS * 4, completions, temperature) > 0.1  # another adapter, and it shows
    for c in completions:
        assert (c.token_ids[-1] == STOP) is (c.finish_reason == "stop")
        assert STOP not in c.token_ids[:-1]
        assert len(c.token_ids) == 40 or c.finish_reason == "stop"


def test_one_server_and_two_say_the_same(servers: Any, engine_on: Any, policy: Policy) -> None:
    one, two = (engine_on(some, adapter_rank=4, seed=3) for some in (servers[:1], servers))
    for engine in (one, two):
        engine.sync(policy(1))
    answers = [[c.token_ids for c in engine.generate(PROMPTS * 4, SAMPLING)] for engine in (one, two)]
    assert answers[0] == answers[1]
    assert len(set(answers[0])) > len(PROMPTS) * 3  # every prompt has a seed of its own


def test_answers_end_where_the_context_does_and_prompts_without_room_are_refused(
    servers: Any, engine_on: Any
) -> None:
    engine = engine_on(servers, stop_token_ids=[])
    (cut,) = engine.generate([[5] * 250], Sampling(max_new_tokens=64))
    assert (len(cut.token_ids), cut.finish_reason) == (6, "length")
    for prompt in ([], [5] * 256):
        with pytest.raises(RolloutError, match=f"prompt 1 has {len(prompt)} tokens, the model's context 256"):
            engine.generate([[5], prompt], SAMPLING)


def test_align_rollout_samples_on_servers(servers: Any, wide_model: Path, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl")
    answers = [f"run={tmp_path / 'run'}", f"policy.path={wide_model}", f"prompts={prompts}", "store=null"]
    urls = ", ".join(server.url for server in servers)
    served = ["engine=vllm-server", f"vllm.urls=[{urls}]", "completions=2", "sampling.max_new_tokens=8"]
    assert run(["rollout", *answers, *served]) == 0
    rows = RunFolder(tmp_path / "run").rows("answers.jsonl")
    assert len(rows) == 10
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["answers"] == 20


def test_a_stale_adapter_is_noticed(servers: Any, engine_on: Any, policy: Policy) -> None:
    """Sabotage for real: what the servers are given is the adapter before."""
    from alignment.delivery import deliver

    engine = engine_on(servers, adapter_rank=4)
    last = deliver(engine, policy(1), PROMPTS[0])
    write = engine._exchange.write
    engine._exchange.write = lambda _policy, *settings, **more: write(policy(1), *settings, **more)
    with pytest.raises(
        RolloutError, match=r"version 2 of the policy was not delivered.*still answers as version 1"
    ):
        deliver(engine, policy(2), PROMPTS[0], last)


def test_adapters_and_bases_that_do_not_fit_are_refused(
    servers: Any, engine_on: Any, policy: Policy, wide_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(RolloutError, match=r"adapters up to rank 8, not 16: start it with .*--lora-rank 16"):
        engine_on(servers, adapter_rank=16)
    wide = get_peft_model(AutoModelForCausalLM.from_pretrained(wide_model), LoraConfig(r=16))
    with pytest.raises(RolloutError, match=r"LoRA rank 16 is greater than max_lora_rank 8"):
        engine_on(servers).sync(wide)

    torch.manual_seed(9)
    config = AutoConfig.from_pretrained(wide_model)
    other = AutoModelForCausalLM.from_config(config)
    other.save_pretrained(tmp_path / "other")
    adapted = get_peft_model(other, LoraConfig(r=4))
    with pytest.raises(
        RolloutError, match=rf"another base than the policy's: {wide_model} there, .*other here"
    ):
        engine_on(servers, model=str(tmp_path / "other")).sync(adapted)

    for size, words in ((config.vocab_size + 1, "fewer"), (config.vocab_size - 1, "more")):
        config.vocab_size = size
        config.save_pretrained(tmp_path / words)
        with pytest.raises(
            RolloutError, match=rf"another vocabulary: {wide_model} has {words} tokens than the"
        ):
            engine_on(servers, model=str(tmp_path / words))
        config = AutoConfig.from_pretrained(wide_model)


def test_a_server_that_takes_no_adapters_is_refused_but_does_for_whole_weights(
    wide_model: Path, engine_on: Any, tmp_path: Path
) -> None:
    plain = TrainingServer(wide_model, tmp_path, "--lora-rank", "0").wait()
    try:
        with pytest.raises(RolloutError, match=r"takes no LoRA adapters: start it with .*--lora-rank 4"):
            engine_on([plain], adapter_rank=4)
        engine = engine_on([plain])
        long = [5] * 100  # long enough to be kept for the next time, by the weights before
        for seed in range(3):
            model = AutoModelForCausalLM.from_pretrained(wide_model)
            torch.manual_seed(seed)
            with torch.no_grad():
                for weight in model.parameters():
                    weight.add_(torch.randn_like(weight), alpha=0.02)
            version = engine.sync(model)
            completions = engine.generate([*PROMPTS, long], SAMPLING)
            assert gap(model, [*PROMPTS, long], completions) < 1e-3
            assert {c.policy_version for c in completions} == {version}
        with torch.no_grad():
            model.model.norm.weight.fill_(float("nan"))
        engine.sync(model)
        with pytest.raises(RolloutError, match=r"not finite|not JSON compliant"):
            engine.generate(PROMPTS, SAMPLING)
    finally:
        plain.stop()


def test_a_server_killed_in_the_middle_is_done_without_and_has_the_policy_again_when_it_is_back(
    servers: Any, engine_on: Any, policy: Policy
) -> None:
    told: list[str] = []
    engine = engine_on(servers, adapter_rank=4, stop_token_ids=[], tell=told.append)
    engine.sync(policy(1))
    many, long = PROMPTS[:2] * 40, Sampling(max_new_tokens=200)
    state = engine.state_dict()
    undisturbed = [c.token_ids for c in engine.generate(many, long)]
    engine.load_state_dict(state)
    threading.Timer(0.5, servers[0].kill).start()
    completions = engine.generate(many, long)
    assert any(line.startswith(f"rollout: {servers[0].url} is left out: ") for line in told), (
        "killed too late"
    )
    same = [c.token_ids == before for c, before in zip(completions, undisturbed, strict=True)]
    assert sum(same) >= 0.9 * len(many)  # but for rounding where other answers were beside them
    assert gap(policy(1), many, completions) < 1e-3

    engine.sync(policy(2))  # the dead one has to catch up with this
    servers[0].start()
    servers[0].wait()
    completions = engine.generate(PROMPTS * 8, SAMPLING)
    assert told[-1] == f"rollout: {servers[0].url} is back"
    assert gap(policy(2), PROMPTS * 8, completions) < 1e-3
    served = urllib.request.urlopen(f"{servers[0].url}/v1/models").read().decode()
    assert engine._parts[-1].name in served


def ppo(folder: Path, model: Path, servers: list[TrainingServer], *arguments: str) -> int:
    """`align ppo` on the servers; its exit code."""
    vllm = {"urls": [server.url for server in servers], "timeout_seconds": 3.0}
    path = write_ppo_config(
        folder, model, engine="vllm-server", vllm=vllm, learning_rate=1e-2, iterations=4, save_every=1
    )
    return run(["ppo", "-c", str(path), f"run={folder / 'run'}", *arguments])


@contextmanager
def killed_after_iteration(number: int, folder: Path, server: TrainingServer) -> Iterator[None]:
    """Inside, the server is killed as soon as the run in `folder` has recorded so many iterations."""
    rows, over = folder / "run" / "metrics.jsonl", threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            if rows.exists() and len(rows.read_text().splitlines()) >= number:
                server.kill()
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def scores(folder: Path) -> list[float]:
    return [row["score_mean"] for row in RunFolder(folder / "run").rows()]


def test_ppo_goes_on_without_a_server_that_is_killed_and_stops_and_resumes_where_it_was_the_last(
    servers: Any, wide_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All three runs draw the same answers: seeds decide, not servers."""
    first, second, third = (tmp_path / name for name in ("undisturbed", "one-killed", "all-killed"))
    for folder in (first, second, third):
        folder.mkdir()
    assert ppo(first, wide_model, servers) == 0
    rows = RunFolder(first / "run").rows()
    assert all(row["engine_gap_max"] < 1e-3 and row["delivery_gap"] < 1e-3 for row in rows)

    with killed_after_iteration(2, second, servers[0]):
        assert ppo(second, wide_model, servers) == 0
    assert f"{servers[0].url} is left out" in capsys.readouterr().err
    assert scores(second) == pytest.approx(scores(first))

    with killed_after_iteration(2, third, servers[1]):
        assert ppo(third, wide_model, servers[1:]) == 1
    said = capsys.readouterr().err
    assert re.search(
        r"no server answers, waited 3 s \(http://127.0.0.1:\d+: .*\); start it again, then resume", said
    )
    assert "Traceback" not in said
    assert len(scores(third)) < 4
    servers[1].start()
    servers[1].wait()
    assert ppo(third, wide_model, servers[1:], "--resume") == 0
    assert scores(third) == pytest.approx(scores(first))


def test_one_step_ahead_is_the_same_run_broken_off_or_not(
    servers: Any, wide_model: Path, tmp_path: Path
) -> None:
    """Real servers answer the next prompts while the policy learns; what they have said is in the checkpoint."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    assert ppo(whole, wide_model, servers[1:], "overlap=1") == 0
    assert ppo(broken, wide_model, servers[1:], "overlap=1", "iterations=2") == 0
    assert ppo(broken, wide_model, servers[1:], "overlap=1", "--resume") == 0
    assert scores(broken) == pytest.approx(scores(whole))
    rows = RunFolder(whole / "run").rows()
    assert [row["staleness"] for row in rows] == [0, 1, 1, 1]
    assert rows[0]["engine_gap_max"] < 1e-3 < rows[1]["engine_gap_mean"]  # then they are an older policy's
    assert all(row["delivery_gap"] < 1e-3 for row in rows)


def test_a_four_bit_base_is_delivered_once_in_full_and_its_adapter_at_every_sync(
    servers: Any, engine_on: Any, policy: Policy
) -> None:
    """Late, because from here on the server has another base."""
    from alignment.models import four_bit_config, keep_trainable_on_cpu

    settings = four_bit_config()
    settings.bnb_4bit_compute_dtype = torch.float32  # to see that nothing but rounding differs
    model = policy(3, quantization_config=settings)
    keep_trainable_on_cpu(model)
    engine = engine_on(servers[1:], adapter_rank=4)
    for move in (0.0, 0.05):
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if ".lora_B." in name:
                    weight.add_(move)
        engine.sync(model)
        completions = engine.generate(PROMPTS, SAMPLING)
        assert gap(model, PROMPTS, completions) < 1e-3
    assert [part.name.rpartition("-")[2] for part in engine._parts] == ["1", "2"]  # the base, the adapter
    assert gap(policy(3), PROMPTS, completions) > 0.1  # the base before quantisation is another policy


def test_where_align_serve_is_killed_outright_vllm_ends_too_and_the_engine_stops_in_time(
    servers: Any, engine_on: Any
) -> None:
    """Comes last: it leaves no server."""
    server = servers[1]
    engine = engine_on([server], timeout_seconds=3.0)
    family = server.family
    assert len(family) > 3  # align, vLLM's server and its engine, and the shell that watches
    server.process.kill()
    server.process.wait()
    _, alive = psutil.wait_procs(family, timeout=40)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    started = time.monotonic()
    with pytest.raises(RolloutError, match=r"no server answers, waited 3 s .*start it again, then resume"):
        engine.generate(PROMPTS, SAMPLING)
    assert time.monotonic() - started < 60
