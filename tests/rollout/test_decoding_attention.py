"""Decoding with keys that are not repeated against transformers' own generate, family by family."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout import Sampling, TransformersEngine
from rollout.attention import attention_for_decoding, decodes_alike, decoding_attention
from tests.families import WINDOW, random_model

STOPS = [1, 7, 19, 23, 31, 40]
LONG = [3, 4] * 30  # of a context of 64
# more than the eight rows that leave at once, of many lengths; one runs into the context's end
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], LONG, [15, 16], [17], [20, 21], [22, 23, 24, 25]]
PROMPTS += [[26, 27], [28, 29, 30], [31], [32, 33, 34, 35, 36, 37, 38]]


@torch.no_grad()
def by_generate(model, prompt, most):
    """Tokens, and logits before each, of transformers' greedy answer to one prompt alone."""
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=min(most, model.config.max_position_embeddings - len(prompt)),
        eos_token_id=STOPS,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return out.sequences[0, len(prompt) :], torch.stack(out.logits)[:, 0]


@pytest.mark.parametrize(
    ("family", "lean"),
    [
        ("llama", True),
        ("qwen2", True),
        ("qwen3", True),
        ("mistral", True),
        ("gemma", True),
        ("gemma3_text", True),
        ("gpt2", True),
        ("gemma2", False),
        ("gpt_neo", False),
    ],
)
def test_greedy_answers_are_those_of_generate(family, lean):
    model = random_model(family)
    before = model.config._attn_implementation
    engine = TransformersEngine(model, STOPS, 0)
    answers = engine.generate(PROMPTS * 3, Sampling(max_new_tokens=20, temperature=0))
    assert engine.lean is lean
    assert model.config._attn_implementation == before
    alone = [by_generate(model, prompt, 20) for prompt in PROMPTS]
    for (tokens, logits), answer in zip(alone * 3, answers, strict=True):
        assert list(answer.token_ids) == tokens.tolist()
        expected = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(answer.logprobs), expected, atol=1e-5, rtol=1e-5)
    lengths = [len(a.token_ids) for a in answers]
    assert max(lengths) > 2 * WINDOW
    assert lengths[PROMPTS.index(LONG)] <= model.config.max_position_embeddings - len(LONG)


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_rows_that_end_with_the_context_disturb_nobody(family):
    """They stay in the batch until eight have ended, past the last position there is."""
    model = random_model(family)
    prompts = [[3, 4] * 31, [5, 6], [3] * 63]
    answers = TransformersEngine(model, [], 0).generate(prompts, Sampling(max_new_tokens=40))
    assert [len(a.token_ids) for a in answers] == [2, 40, 1]
    assert {a.finish_reason for a in answers} == {"length"}
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens = torch.tensor(answer.token_ids)
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *answer.token_ids]])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(answer.logprobs), expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.sampled_from([(4, 4), (4, 2), (4, 1), (6, 3)]),
    st.integers(1, 12) | st.none(),
    st.booleans(),
)
def test_the_attention_by_the_formula(lengths, heads, window, prefill):
    """Every real query sees the real keys up to itself, the last `window` of them: softmax(q k / sqrt(e)) v."""
    torch.manual_seed(0)
    b, t, (h, k), e = len(lengths), max(lengths), heads, 4
    q = t if prefill else 1
    query, key, value = (torch.randn(b, n, m, e) for n, m in ((h, q), (k, t), (k, t)))
    real = torch.stack([torch.arange(t) >= t - n for n in lengths])
    cached = (
        t if prefill or window is None else min(t, window)
    )  # a sliding layer's cache has dropped the rest
    out, _ = decoding_attention(
        None, query, key[:, :, -cached:], value[:, :, -cached:], None, real=real, sliding_window=window
    )
    assert out.shape == (b, q, h, e)
    assert torch.isfinite(out).all()
    for row in range(b):
        for head in range(h):
            for place in range(q):
                at = t - q + place
                if not real[row, at]:
                    continue
                seen = [j for j in range(at + 1) if real[row, j] and (window is None or at - j < window)]
                scores = key[row, head // (h // k), seen] @ query[row, head, place] / e**0.5
                expected = scores.softmax(-1) @ value[row, head // (h // k), seen]
                torch.testing.assert_close(out[row, place, head], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("wish", [{"chunk": 4}, {"softcap": 30.0}, {"s_aux": torch.zeros(4)}])
def test_what_the_attention_does_not_know_it_refuses(wish):
    query = torch.randn(1, 2, 1, 4)
    real = torch.ones(1, 1, dtype=torch.bool)
    decoding_attention(None, query, query, query, None, real=real, dropout=0.0, position_ids=real, chunk=None)
    with pytest.raises(TypeError, match=next(iter(wish))):
        decoding_attention(None, query, query, query, None, real=real, **wish)
    with pytest.raises(TypeError, match="not plain"):
        decoding_attention(None, query, query, query, torch.zeros(1, 1, 1, 1), real=real)


def test_a_layer_of_an_unknown_kind_is_decoded_by_its_own_attention():
    model = random_model("llama")
    assert decodes_alike(model)
    model.config.attention_chunk_size = 8192  # far longer than the rows that it is tried on
    model.config.layer_types = ["full_attention", "chunked_attention", "full_attention"]
    assert not decodes_alike(model)


def test_an_engine_given_another_model_looks_at_it_anew():
    sampling = Sampling(max_new_tokens=8, temperature=0)
    engine = TransformersEngine(random_model("llama"), STOPS, 0)
    engine.generate(PROMPTS, sampling)
    other = random_model("gemma2")
    assert engine.sync(other) == 1
    found = [a.token_ids for a in engine.generate(PROMPTS, sampling)]
    assert found == [a.token_ids for a in TransformersEngine(other, STOPS, 0).generate(PROMPTS, sampling)]
    assert engine.lean is False


def test_the_models_own_attention_is_back_after_a_failure():
    model = random_model("llama")
    before = model.config._attn_implementation
    seen = []

    def fail():
        with attention_for_decoding(model):
            seen.append(model.config._attn_implementation)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == ["decoding"]
    assert model.config._attn_implementation == before
