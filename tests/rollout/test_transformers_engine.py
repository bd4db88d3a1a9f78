"""The embedded engine against plain forwards and against Transformers' own generate, on a tiny real Llama."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from rollout import RolloutError, Sampling, TransformersEngine
from tests.families import adapted, random_model

VOCABULARY, PAD, STOP = 40, 0, 1
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [15, 16], [9, 10, 11, 12, 13, 14], [30, 31, 32, 33]]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,  # far from uniform, so that a wrong position or mask shows
        pad_token_id=PAD,
        eos_token_id=STOP,
    )
    return LlamaForCausalLM(config).eval()


SPREAD = Sampling(max_new_tokens=20)


def engine(model, **kwargs) -> TransformersEngine:
    return TransformersEngine(model, kwargs.pop("stops", [STOP]), kwargs.pop("pad", PAD), **kwargs)


@torch.no_grad()
def plain_logprobs(model, prompt, tokens, temperature=1.0) -> torch.Tensor:
    """[len(tokens)] log-probabilities by one unpadded forward over prompt and answer."""
    logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_captured_logprobs_are_those_of_a_plain_forward(model, temperature):
    sampling = Sampling(max_new_tokens=20, temperature=temperature)
    completions = engine(model, seed=3).generate(PROMPTS * 4, sampling)
    assert {c.finish_reason for c in completions} == {"stop", "length"}
    for prompt, c in zip(PROMPTS * 4, completions, strict=True):
        assert len(c.logprobs) == len(c.token_ids)
        expected = plain_logprobs(model, prompt, list(c.token_ids), temperature)
        torch.testing.assert_close(torch.tensor(c.logprobs), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("max_batch", [64, 5])
def test_a_value_head_is_asked_on_the_way(model, max_batch):
    head = torch.nn.Linear(32, 1)
    prompts = PROMPTS * 4  # rows leave the batch while others go on
    completions = engine(model, seed=3, max_batch=max_batch, value_head=head).generate(prompts, SPREAD)
    weight = model.lm_head.weight
    for prompt, c in zip(prompts, completions, strict=True):
        with torch.no_grad():
            states = model.model(torch.tensor([[*prompt, *c.token_ids]])).last_hidden_state
            expected = head(states[0, len(prompt) - 1 : -1])[:, 0]
        torch.testing.assert_close(torch.tensor(c.values), expected, atol=1e-4, rtol=0)
    assert model.lm_head.weight is weight
    assert all(c.values == () for c in engine(model, seed=3).generate(PROMPTS, SPREAD))


def test_a_head_with_an_adapter_of_its_own_answers_and_is_left_as_it_was():
    tuned = adapted(random_model("llama"), target_modules=["lm_head", "q_proj"])
    head = tuned.get_output_embeddings()
    before = dict(head.named_parameters())
    (c,) = engine(tuned, seed=3).generate([[5, 6, 7]], Sampling(max_new_tokens=6))
    expected = plain_logprobs(tuned, [5, 6, 7], list(c.token_ids))
    torch.testing.assert_close(torch.tensor(c.logprobs), expected, atol=1e-4, rtol=0)
    after = dict(head.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)


def test_greedy_is_that_of_generate(model):
    completions = engine(model).generate(PROMPTS, Sampling(max_new_tokens=12, temperature=0))
    for prompt, c in zip(PROMPTS, completions, strict=True):
        theirs = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            do_sample=False,
            max_new_tokens=12,
        )
        assert list(c.token_ids) == theirs[0, len(prompt) :].tolist()
        torch.testing.assert_close(
            torch.tensor(c.logprobs), plain_logprobs(model, prompt, list(c.token_ids)), atol=1e-4, rtol=0
        )


def test_stop_token_is_kept_and_ends_the_answer(model):
    several = [STOP, 17, 23]
    completions = engine(model, stops=several, seed=1).generate(PROMPTS * 8, Sampling(max_new_tokens=30))
    assert {c.token_ids[-1] for c in completions if c.finish_reason == "stop"} == set(several)
    for c in completions:
        assert not set(several) & set(c.token_ids[:-1])
        assert (c.finish_reason == "stop") == (c.token_ids[-1] in several)
        assert c.finish_reason == "stop" or len(c.token_ids) == 30


def test_pad_may_be_the_stop_token(model):
    sampling = Sampling(max_new_tokens=20)
    assert engine(model, pad=STOP, seed=5).generate(PROMPTS * 3, sampling) == engine(model, seed=5).generate(
        PROMPTS * 3, sampling
    )


def test_neighbours_and_batch_size_do_not_change_an_answer(model):
    sampling = Sampling(max_new_tokens=20)
    together = engine(model, seed=2).generate(PROMPTS * 3, sampling)
    one_by_one = engine(model, seed=2, max_batch=1).generate(PROMPTS * 3, sampling)
    assert len({len(c.token_ids) for c in together}) > 3, "rows must leave the batch at different times"
    for a, b in zip(together, one_by_one, strict=True):
        assert a.token_ids == b.token_ids
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_engines_that_share_the_prompts_say_what_one_alone_would(model):
    sampling = Sampling(max_new_tokens=20)
    alone, *sharing = (engine(model, seed=4) for _ in range(3))
    for _ in range(2):  # their generators move on alike
        everything = alone.generate(PROMPTS, sampling)
        parts = [
            one.generate(PROMPTS, sampling, rows)
            for one, rows in zip(sharing, ([4, 0, 2], [5, 1, 3]), strict=True)
        ]
        for found, i in zip(parts[0] + parts[1], [4, 0, 2, 5, 1, 3], strict=True):
            assert found.token_ids == everything[i].token_ids
            assert found.logprobs == pytest.approx(everything[i].logprobs, abs=1e-4)


def test_same_seed_same_answers_and_state_restores_them(model):
    sampling = Sampling(max_new_tokens=10)
    first, second = engine(model, seed=7), engine(model, seed=7)
    assert first.generate(PROMPTS, sampling) == second.generate(PROMPTS, sampling)
    first.sync(model)
    state = first.state_dict()
    expected = first.generate(PROMPTS, sampling)
    resumed = engine(model, seed=99)
    resumed.load_state_dict(state)
    assert resumed.generate(PROMPTS, sampling) == expected
    assert {c.policy_version for c in expected} == {1}
    assert first.generate(PROMPTS, sampling) != expected, "the generator must move on"


def test_repeated_prompts_are_sampled_independently(model):
    completions = engine(model).generate([PROMPTS[0]] * 20, Sampling(max_new_tokens=10))
    assert len({c.token_ids for c in completions}) > 10


def test_samples_follow_the_model(model):
    with torch.no_grad():
        expected = model(torch.tensor([PROMPTS[0]])).logits[0, -1].softmax(-1)
    n = 4000
    completions = engine(model, max_batch=2000).generate([PROMPTS[0]] * n, Sampling(max_new_tokens=1))
    counts = torch.bincount(torch.tensor([c.token_ids[0] for c in completions]), minlength=VOCABULARY)
    assert (counts / n - expected).abs().sum() / 2 < 0.04  # total variation; its mean here is about 0.02


def test_top_k_and_top_p_report_the_distribution_they_sample(model):
    for sampling in (Sampling(max_new_tokens=8, top_k=1), Sampling(max_new_tokens=8, top_p=1e-6)):
        greedy = engine(model).generate(PROMPTS, Sampling(max_new_tokens=8, temperature=0))
        sure = engine(model).generate(PROMPTS, sampling)
        assert [c.token_ids for c in sure] == [c.token_ids for c in greedy]
        assert all(p == 0 for c in sure for p in c.logprobs)


def test_adapter_in_use_is_the_policy_and_sync_counts_versions(model):
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    try:
        own = engine(adapted)
        assert own.sync(adapted) == 1
        completions = own.generate(PROMPTS, Sampling(max_new_tokens=10))
        with adapted.disable_adapter():
            off = plain_logprobs(adapted, PROMPTS[0], list(completions[0].token_ids))
        on = plain_logprobs(adapted, PROMPTS[0], list(completions[0].token_ids))
        torch.testing.assert_close(torch.tensor(completions[0].logprobs), on, atol=1e-4, rtol=0)
        assert (on - off).abs().max() > 1e-2
    finally:
        adapted.unload()


def test_training_mode_comes_back_as_it_was(model):
    model.train()
    model.lm_head.eval()
    engine(model).generate(PROMPTS, Sampling(max_new_tokens=2))
    assert model.training
    assert model.model.training
    assert not model.lm_head.training
    model.eval()


def test_answer_is_cut_where_the_context_ends(model):
    long = [3] * 60
    completions = engine(model, stops=[]).generate([long, [3]], Sampling(max_new_tokens=10))
    assert [len(c.token_ids) for c in completions] == [4, 10]
    assert [c.finish_reason for c in completions] == ["length", "length"]


@pytest.mark.parametrize("prompt", [[3] * 64, []])
def test_prompt_that_does_not_fit_is_named(model, prompt):
    with pytest.raises(RolloutError, match=rf"prompt 1 has {len(prompt)} tokens.* 64"):
        engine(model).generate([[3], prompt], Sampling(max_new_tokens=2))


def test_no_prompts_no_completions(model):
    assert engine(model).generate([], Sampling()) == []


def test_broken_weights_are_an_error_not_an_answer(model):
    weight = model.model.norm.weight
    kept = weight.detach().clone()
    try:
        weight.data.fill_(float("nan"))
        with pytest.raises(RolloutError, match="not finite"):
            engine(model).generate(PROMPTS, Sampling(max_new_tokens=2))
    finally:
        weight.data.copy_(kept)


def test_the_head_reads_states_that_lie_in_a_line(model):
    """Of a slice, matmul copied the head's weights for every row: a gigabyte for 64 rows of a 32k vocabulary."""
    laid_out = []
    hook = model.get_output_embeddings().register_forward_hook(
        lambda _head, inputs, _out: laid_out.append(inputs[0].is_contiguous())
    )
    engine(model).generate(PROMPTS, Sampling(max_new_tokens=3))
    hook.remove()
    assert laid_out[-3:] == [True, True, True]
    assert not model.get_output_embeddings()._forward_pre_hooks
