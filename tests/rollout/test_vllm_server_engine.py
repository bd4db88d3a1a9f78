"""The engine on servers against stand-ins of them: faults, restarts and foreign servers. No vLLM is needed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from rollout import RolloutError, Sampling
from rollout.server_policy import PREFIX, Exchange
from rollout.server_pool import at_once
from rollout.vllm_server_engine import VllmServerEngine
from tests.rollout.stand_in_vllm_server import BASE, VOCABULARY, StandInVllm

SAMPLING = Sampling(max_new_tokens=5)
PROMPTS = [[3, 4, i] for i in range(12)]

RESTART = """
import time
from tests.rollout.stand_in_vllm_server import StandInVllm
time.sleep(1.0)
StandInVllm(port={port})
time.sleep(60)
"""
LEAVE = """
import time
from pathlib import Path
from rollout.server_policy import Exchange
exchange = Exchange(Path("{folder}"), local=True)
print(exchange.folder, flush=True)
time.sleep(60)
"""


@pytest.fixture
def policy(tiny_model):
    """Whole weights."""
    return AutoModelForCausalLM.from_pretrained(tiny_model)


@pytest.fixture
def adapted(policy):
    torch.manual_seed(2)
    return get_peft_model(policy, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))


def says(model):
    """What the base of `model` says of ids, as a server of it would."""

    @torch.no_grad()
    def logprobs(ids):
        with model.disable_adapter():
            said = model.eval()(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        return said.gather(-1, torch.tensor(ids)[1:, None])[:, 0].tolist()

    return logprobs


@pytest.fixture
def engine_on(tiny_model, tmp_path):
    engines = []

    def make(*servers, **options):
        urls = [server if isinstance(server, str) else server.url for server in servers]
        settings = {"timeout_seconds": 5.0, "exchange": tmp_path / "exchange", **options}
        engines.append(VllmServerEngine(urls, str(tiny_model), [1], **settings))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_answers_do_not_depend_on_how_many_servers_there_are_or_how_quick(engine_on):
    with StandInVllm() as alone, StandInVllm() as quick, StandInVllm(latency=0.02) as slow:
        one = engine_on(alone, seed=7).generate(PROMPTS, SAMPLING)
        two = engine_on(quick, slow, seed=7).generate(PROMPTS, SAMPLING)
        assert one == two
        assert len(quick.answered) + len(slow.answered) == len(PROMPTS)
        assert min(len(quick.answered), len(slow.answered)) >= 4
        assert {len(c.token_ids) for c in one} == {len(c.logprobs) for c in one} == {5}


def test_every_prompt_has_a_seed_of_its_own_and_resume_draws_the_same_again(engine_on):
    with StandInVllm() as server:
        engine = engine_on(server)
        state = engine.state_dict()
        first = engine.generate([[5, 6]] * 4, SAMPLING)
        assert len({body["seed"] for body in server.answered}) == len(set(first)) == 4
        assert engine.generate([[5, 6]] * 4, SAMPLING) != first
        engine.load_state_dict(state)
        assert engine.generate([[5, 6]] * 4, SAMPLING, rows=[2, 0]) == [first[2], first[0]]
        other = engine_on(server, seed=3)
        other.reseed(0)
        assert other.generate([[5, 6]] * 4, SAMPLING) == first


def test_what_is_asked_for_is_the_policys_own_distribution(engine_on):
    with StandInVllm() as server:
        engine_on(server).generate([[5]], Sampling(max_new_tokens=2, temperature=0.7, top_p=0.9))
        (body,) = server.answered
    asked = {
        name: body[name] for name in ("temperature", "top_p", "top_k", "repetition_penalty", "ignore_eos")
    }
    assert asked == {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": -1,
        "repetition_penalty": 1.0,
        "ignore_eos": True,
    }
    assert (body["stop_token_ids"], body["return_token_ids"]) == ([1], True)


@pytest.mark.parametrize("fault", ["drop", "abort", "garbage", 500, 503, 429])
def test_a_request_that_fails_is_asked_of_another_server(engine_on, fault):
    told = []
    with StandInVllm(fault) as bad, StandInVllm() as good, StandInVllm() as alone:
        engine = engine_on(bad, good, tell=told.append)
        assert engine.generate(PROMPTS, SAMPLING) == engine_on(alone).generate(PROMPTS, SAMPLING)
        assert f"{bad.url} is left out" in told[0]
        engine.generate(PROMPTS, SAMPLING)
        assert told[1:] == [f"rollout: {bad.url} is back"]


def test_a_server_that_hangs_is_left_out_after_the_timeout(engine_on):
    with StandInVllm("hang") as bad, StandInVllm() as good:
        engine = engine_on(bad, good, timeout_seconds=0.5)
        assert len(engine.generate(PROMPTS, SAMPLING)) == len(PROMPTS)


def test_where_no_server_answers_the_run_stops_in_time_and_says_what_became_of_each(engine_on):
    with StandInVllm() as one, StandInVllm() as two:
        engine = engine_on(one, two, timeout_seconds=0.5)
        urls = one.url, two.url
    with pytest.raises(RolloutError, match=r"no server answers, waited 0.5 s") as error:
        engine.generate(PROMPTS, SAMPLING)
    assert all(f"{url}: ConnectError" in str(error.value) for url in urls)


def test_the_only_server_is_waited_for_and_given_the_policy_again(engine_on, policy):
    port = free_port()
    with StandInVllm(port=port) as server:
        engine = engine_on(server)
        engine.sync(policy)
        before = engine.generate(PROMPTS, SAMPLING)
        state = engine.state_dict()
    restart = RESTART.format(port=port)
    with subprocess.Popen([sys.executable, "-c", restart]) as process:
        again = engine.generate(PROMPTS, SAMPLING)
        engine.load_state_dict(state)
        assert engine.generate(PROMPTS, SAMPLING) == again
        process.kill()
    assert before != again  # other seeds, the same weights: the stand-in draws by their name
    assert {c.policy_version for c in again} == {1}


def test_a_request_that_always_fails_is_given_up(engine_on):
    with (
        StandInVllm(*[500] * 100) as server,
        pytest.raises(RolloutError, match=r"failed 6 times, .*500: EngineCore"),
    ):
        engine_on(server).generate([[5]], SAMPLING)


def test_a_restarted_server_has_its_adapter_again_before_it_answers(engine_on, adapted):
    with StandInVllm(says=says(adapted)) as one, StandInVllm(says=says(adapted)) as two:
        engine = engine_on(one, two, adapter_rank=4)
        assert engine.sync(adapted) == 1
        one.start_again()
        answers = engine.generate(PROMPTS, SAMPLING)
        assert {body["model"] for server in (one, two) for body in server.answered} == set(one.adapters)
        assert one.adapters == two.adapters
        assert {c.policy_version for c in answers} == {1}


def test_weights_lost_in_the_middle_of_a_batch_are_noticed_and_their_answers_asked_for_again(
    engine_on, policy
):
    """The connection never breaks, so only the name of the weights shows it."""
    with StandInVllm(200, 200, "restart") as server:
        engine = engine_on(server)
        engine.sync(policy)
        engine.generate(PROMPTS, SAMPLING)
        assert server.loaded.count("/collective_rpc") == 2
        assert len(server.answered) == 2 * len(PROMPTS)


def test_two_runs_on_one_server_are_told_apart(engine_on, policy):
    with StandInVllm() as server:
        one, two = engine_on(server), engine_on(server)
        one.sync(policy)
        two.sync(policy)
        with pytest.raises(RolloutError, match="not this run's: give every run its own servers"):
            one.generate(PROMPTS, SAMPLING)


def test_each_sync_takes_the_place_of_the_last(engine_on, adapted, tmp_path):
    with StandInVllm(says=says(adapted)) as server:
        engine = engine_on(server, adapter_rank=4)
        versions = [engine.sync(adapted) for _ in range(3)]
        assert versions == [1, 2, 3]
        assert len(server.adapters) == 1
        (folder,) = server.adapters.values()
        assert [path.name for path in Path(folder).parent.iterdir() if path.is_dir()] == [Path(folder).name]
        assert engine.generate([[5]], SAMPLING)[0].policy_version == 3
        engine.close()
        assert server.adapters == {}
        assert not Path(folder).parent.exists()


def test_what_a_server_will_not_load_is_told_in_its_own_words(engine_on, adapted, policy):
    words = "Worker failed with error 'LoRA rank 16 is greater than max_lora_rank 8.'"
    refuses = {"/v1/load_lora_adapter": (500, words)}
    with (
        StandInVllm(says=says(adapted), refuses=refuses) as server,
        pytest.raises(RolloutError, match=r"refuses /v1/load_lora_adapter \(500: Worker .*LoRA rank 16"),
    ):
        engine_on(server).sync(adapted)
    with (
        StandInVllm(busy_cache=True) as server,
        pytest.raises(RolloutError, match="other requests under way"),
    ):
        engine_on(server).sync(policy)


def test_a_delivery_that_hangs_ends_in_time_and_is_told(engine_on, adapted):
    with StandInVllm(says=says(adapted), refuses={"/v1/load_lora_adapter": "hang"}) as server:
        engine = engine_on(server, timeout_seconds=0.3)
        with pytest.raises(RolloutError, match=r"no server answers, waited 0.3 s \(.*no reply in time"):
            engine.sync(adapted)


def test_a_server_of_another_base_is_refused_by_what_it_says(engine_on, adapted, tiny_model):
    """Same shape, same vocabulary, same name: only its log-probabilities differ."""
    with StandInVllm(says=lambda ids: [-5.0] * (len(ids) - 1)) as server:
        engine = engine_on(server, adapter_rank=4)
        with pytest.raises(RolloutError, match=rf"another base .*stand-in/root there, {tiny_model} here"):
            engine.sync(adapted)
        assert server.adapters == {}


def test_servers_that_were_given_the_same_and_say_different_things_are_refused(engine_on, adapted):
    """As where one reads a folder that is not the trainer's."""
    right = says(adapted)
    with (
        StandInVllm(says=right) as one,
        StandInVllm(says=lambda ids: right(ids) if two.adapters == {} else [-5.0] * (len(ids) - 1)) as two,
        pytest.raises(
            RolloutError, match=rf"{two.url} and {one.url} .* do not say the same: they are .* nats apart"
        ),
    ):
        engine_on(one, two, adapter_rank=4).sync(adapted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"vocabulary": VOCABULARY - 1},
            r"another vocabulary: stand-in/root has fewer tokens than the 320 of .*model",
        ),
        ({"vocabulary": VOCABULARY + 1}, r"another vocabulary: stand-in/root has more tokens than the 320"),
        ({"max_rank": None}, r"takes no LoRA adapters: start it with .*--for-training --lora-rank 4"),
        ({"max_rank": 2}, r"up to rank 2, not 4: start it"),
        ({"mode": "raw_logprobs"}, r"gives raw_logprobs, not those of the distribution"),
        ({"context": None}, r"is no vLLM server for generation"),
        ({"foreign": True}, r"is no vLLM server for generation: start one with `align serve"),
    ],
)
def test_a_server_that_does_not_fit_is_refused_at_the_start(engine_on, options, message):
    with StandInVllm(**options) as server, pytest.raises(RolloutError, match=message):
        engine_on(server, adapter_rank=4)


def test_a_server_that_is_not_there_or_not_open_to_a_trainer_is_refused(engine_on):
    with pytest.raises(
        RolloutError, match=r"cannot use .*ConnectError.*is the server running\? Start it with `align"
    ):
        engine_on(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(RolloutError, match="no server's address"):
        engine_on()
    for wrong in ("127.0.0.1:8000", "http://", "http://[::", "file:///tmp"):
        with pytest.raises(RolloutError, match=r"is no server's address: write it as http://host:port"):
            engine_on(wrong)
    with pytest.raises(RolloutError, match="name a folder that they and the trainer share"):
        engine_on("http://192.0.2.7:8000", exchange=None)
    with (
        StandInVllm(open_to_trainers=False) as server,
        pytest.raises(
            RolloutError, match=r"has no /server_info: it takes a vLLM started by `align serve MODEL --for"
        ),
    ):
        engine_on(server)


def test_prompts_that_leave_no_room_are_refused_before_anything_is_asked(engine_on):
    with StandInVllm(context=8) as server:
        engine = engine_on(server)
        for prompt in ([], [5] * 8):
            with pytest.raises(RolloutError, match="the model's context 8"):
                engine.generate([[5], prompt], SAMPLING)
        assert server.answered == []
        assert engine.generate([[5] * 6], SAMPLING)[0].token_ids[2:] == ()


def test_logits_that_are_not_finite_stop_the_run(engine_on):
    with StandInVllm("nan") as server, pytest.raises(RolloutError, match="not finite"):
        engine_on(server).generate([[5]], SAMPLING)


def test_what_a_killed_trainer_left_is_removed_and_a_living_ones_kept(tmp_path):
    alive = Exchange(tmp_path, local=True)
    code = LEAVE.format(folder=tmp_path)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        left = Path(process.stdout.readline().strip())
        assert left.is_dir()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    after = Exchange(tmp_path, local=True)
    assert sorted(tmp_path.glob(f"{PREFIX}*")) == sorted([alive.folder, after.folder])
    alive.close()
    after.close()
    assert list(tmp_path.iterdir()) == []


def test_a_policy_that_cannot_be_written_is_told_in_a_line(tmp_path, policy):
    exchange = Exchange(tmp_path, local=True)
    shutil.rmtree(exchange.folder)
    exchange.folder.touch()
    with pytest.raises(RolloutError, match=r"cannot write the policy for the servers: .*Not a directory"):
        exchange.write(policy, "float32", with_base=True)


def test_more_requests_than_connections_may_be_open_are_all_answered(engine_on, monkeypatch):
    assert [at_once(2, 1 << 20), at_once(4, 1024), at_once(1, 1)] == [1024, 512, 1]
    monkeypatch.setattr("resource.getrlimit", lambda _: (6, 6))
    with StandInVllm(latency=0.005) as server:
        assert len(engine_on(server).generate(PROMPTS, SAMPLING)) == len(PROMPTS)
        assert server.busiest <= 3


def test_many_requests_are_shared_out_evenly(engine_on):
    with StandInVllm(latency=0.01) as one, StandInVllm(latency=0.01) as two:
        engine_on(one, two).generate([[3, i % 300] for i in range(300)], SAMPLING)
        assert Counter(body["model"] for body in one.answered + two.answered) == {BASE: 300}
        assert abs(len(one.answered) - len(two.answered)) <= 60
