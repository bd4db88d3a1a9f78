"""Rows run end to end, layers run once: the same numbers and gradients as one forward a row, whatever the model."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from alignment.ppo import packing as packing_module
from alignment.ppo import trunk as trunk_module
from alignment.ppo.actor_critic import FullActorCritic, logprobs_of, values_of
from alignment.ppo.logprobs import chosen_logprobs
from alignment.ppo.packing import STEP, Collect, Packing, Spread, line_length
from alignment.ppo.sequences import Sequences, join
from alignment.ppo.trunk import (
    WHOLE,
    Shortcuts,
    last_mlp_for,
    lower_states,
    response_states,
    trunk,
)
from reward.upper_layers import layers_from
from tests.families import WINDOW, random_model

# more than a group of four rows, in no order, answers of one token, one row three windows long
PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13], [3] * 9, [14], [15, 16]]
RESPONSES = [[20, 21, 1], [22], [23, 24, 25, 26], [27, 28, 29, 30, 31, 32, 33], [34], [35, 1]]
PACKED = Shortcuts(packed=True)


def batch_of(prompts=PROMPTS, responses=RESPONSES) -> Sequences:
    return join(prompts, responses, pad_id=1)  # pad = eos = 1


def outcome(model, batch, shortcuts):
    """Log-probabilities, values and the gradients of both, all rows of the batch in one forward."""
    torch.manual_seed(1)
    head = nn.Linear(32, 1)
    if shortcuts.first_layer:
        batch = batch.with_states(lower_states(model, batch, shortcuts))
    states = response_states(model, batch, shortcuts)
    logprobs, _ = logprobs_of(model, states, batch, 0.7)
    values = values_of(head, states, batch)
    return logprobs, values, gradients(model, logprobs.sum() + (values**2).sum())


def gradients(model, loss):
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def one_by_one(model, prompts, responses):
    """The same by the model's own forward of each row, without padding and without any code of ours."""
    torch.manual_seed(1)
    head = nn.Linear(32, 1)
    logprobs, values = [], []
    for prompt, response in zip(prompts, responses, strict=True):
        out = model(torch.tensor([[*prompt, *response]]), output_hidden_states=True, use_cache=False)
        at = slice(len(prompt) - 1, -1)
        everything = torch.log_softmax(out.logits[0, at].float() / 0.7, -1)
        logprobs.append(everything[range(len(response)), response])
        values.append(head(out.hidden_states[-1][0, at])[:, 0])
    loss = torch.cat(logprobs).sum() + (torch.cat(values) ** 2).sum()
    return logprobs, values, gradients(model, loss)


def assert_same(ours, theirs):
    for rows, expected in zip(ours[:2], theirs[:2], strict=True):
        for row, one in zip(rows, expected, strict=True):
            torch.testing.assert_close(row[: len(one)], one, atol=1e-5, rtol=1e-5)
            assert not row[len(one) :].any()
    scale = max(float(g.abs().max()) for g in theirs[2])
    assert scale > 1e-2
    for gradient, expected in zip(ours[2], theirs[2], strict=True):
        torch.testing.assert_close(gradient, expected, atol=1e-5 * scale, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "packs"),
    [
        ("llama", True),
        ("qwen2", True),
        ("qwen3", True),
        ("mistral", True),
        ("gemma", True),
        ("gemma3_text", True),
        ("gemma2", False),
        ("gpt2", False),
        ("gpt_neo", False),
        ("gpt_oss", False),
    ],
)
def test_a_packed_forward_is_one_forward_a_row(family, packs):
    model = random_model(family)
    shortcuts = Shortcuts.of(model)
    assert shortcuts == Shortcuts(packed=packs)
    before = model.config._attn_implementation
    assert_same(outcome(model, batch_of(), shortcuts), one_by_one(model, PROMPTS, RESPONSES))
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gemma2", "gemma3_text", "gpt_oss"])
def test_upper_layers_keep_their_own_kind(family):
    """Layers that see a window and layers that see all take turns: layer 1 must not run as layer 0 would."""
    model = random_model(family)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layers.1." in name or "layers.2." in name)
    shortcuts = Shortcuts.of(model, ["model.layers.1.mlp", "model.layers.2.mlp"])
    assert shortcuts.first_layer == 1
    kinds = getattr(model.config, "layer_types", None)
    for checkpointed in (False, True):
        way = replace(shortcuts, checkpointed=checkpointed)
        assert_same(outcome(model, batch_of(), way), one_by_one(model, PROMPTS, RESPONSES))
    assert getattr(model.config, "layer_types", None) == kinds
    assert len(model.model.layers) == 3


def test_a_model_that_cannot_be_cut_is_whole_after_it_was_tried():
    model = random_model("llama")

    class Fixed(type(model.config)):
        layer_types = property(lambda self: ["full_attention"] * 3)

    model.config.__class__ = Fixed
    assert Shortcuts.of(model, ["model.layers.1.mlp"]).first_layer == 0
    assert len(model.model.layers) == 3


rows = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=9)


@settings(max_examples=25, deadline=None)
@given(rows, st.integers(1, 5), st.randoms(use_true_random=False))
def test_any_lengths_in_any_order(lengths, group, random):
    model = MISTRAL
    prompts = [[random.randrange(2, 60) for _ in range(p)] for p, _ in lengths]
    responses = [[random.randrange(1, 60) for _ in range(r)] for _, r in lengths]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing_module, "GROUP", group)
        ours = outcome(model, batch_of(prompts, responses), PACKED)
    assert_same(ours, one_by_one(model, prompts, responses))


MISTRAL = random_model("mistral", num_hidden_layers=2)


@settings(max_examples=100, deadline=None)
@given(rows, st.integers(0, 3), st.integers(1, 5))
def test_a_packing_moves_every_token_there_and_back(lengths, wider, group):
    prompts, responses = ([[2] * n for n in column] for column in zip(*lengths, strict=True))
    batch = batch_of(prompts, responses)
    ids = torch.arange(1, batch.ids.numel() + 1).view(batch.ids.shape)  # every place its own number
    ids = nn.functional.pad(
        ids, (0, wider), value=-1
    )  # wider than its longest row: not cut, or cut elsewhere
    batch = Sequences(ids, batch.prompt_lengths, batch.response_lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing_module, "GROUP", group)
        packing = Packing.of(batch, torch.float32)
    expected = torch.cat([row[:n] for row, n in zip(ids, batch.lengths.tolist(), strict=True)])
    line = packing.line(ids)
    assert torch.equal(line[0], expected)
    assert packing.positions[0].tolist() == [i for n in batch.lengths.tolist() for i in range(n)]
    back = packing.rows(line[..., None].float())[..., 0]
    assert torch.equal(back, torch.where(packing.real, ids, 0).float())
    assert sum(rows * longest for rows, longest in packing.groups) == len(packing.slots)
    assert torch.equal(Collect.apply(Spread.apply(line[0], packing), packing), expected)
    assert all(longest <= int(batch.lengths.max()) for _, longest in packing.groups)


def test_a_batch_wider_than_its_longest_row_is_read_alike():
    model, batch = random_model("llama"), batch_of()
    wide = Sequences(
        nn.functional.pad(batch.ids, (0, 3), value=1), batch.prompt_lengths, batch.response_lengths
    )
    with torch.no_grad():
        assert torch.equal(response_states(model, wide, PACKED), response_states(model, batch, PACKED))


def test_moving_tokens_has_the_gradient_it_should():
    packing = Packing.of(batch_of(), torch.float32)
    line = torch.randn(len(packing.places), 2, dtype=torch.float64, requires_grad=True)
    # padding never gets a gradient, which Spread relies on: look at it through Collect
    assert torch.autograd.gradcheck(lambda x: Collect.apply(Spread.apply(x, packing) ** 2, packing), line)


def test_bfloat16_is_filled_up_and_nothing_reads_the_filling(monkeypatch):
    assert line_length(1, torch.bfloat16, torch.device("cpu")) == STEP
    assert line_length(STEP, torch.bfloat16, torch.device("cpu")) == STEP
    assert line_length(STEP + 1, torch.bfloat16, torch.device("cpu")) == 2 * STEP
    assert line_length(STEP + 1, torch.bfloat16, torch.device("cuda")) == STEP + 1
    assert line_length(STEP + 1, torch.float32, torch.device("cpu")) == STEP + 1
    # the filling alone, in float32, where it must change nothing at all but rounding
    for module in (packing_module, trunk_module):
        monkeypatch.setattr(module, "line_length", lambda tokens, dtype, device: -(-tokens // 32) * 32)
    model = random_model("mistral")
    assert Packing.of(batch_of(), model.dtype).size == 64  # for 37 tokens
    assert_same(outcome(model, batch_of(), PACKED), one_by_one(model, PROMPTS, RESPONSES))


def test_a_packed_forward_in_bfloat16_is_no_further_off_than_a_padded_one():
    model = random_model("mistral")
    exact = torch.cat(one_by_one(model, PROMPTS, RESPONSES)[0])
    model.bfloat16()
    batch, found = batch_of(), {}
    for way in (WHOLE, PACKED):
        rows, _, grads = outcome(model, batch, way)
        assert all(torch.isfinite(g).all() for g in grads)
        found[way] = (rows[batch.response_mask] - exact).abs().mean()
    assert Packing.of(batch, model.dtype).size == STEP
    assert found[PACKED] <= 1.5 * found[WHOLE]
    assert found[WHOLE] > 1e-3  # it is bfloat16


def test_a_frozen_head_in_bfloat16_gives_its_filling_no_weight():
    torch.manual_seed(0)
    head = nn.Linear(16, 50, bias=False).bfloat16().requires_grad_(False)
    states = torch.randn(5, 16).bfloat16().requires_grad_()
    targets = torch.randint(0, 50, (5,))
    logprobs, entropy = chosen_logprobs(head, states, targets, 0.7, entropy_gradient=True)
    assert logprobs.shape == entropy.shape == (5,)
    assert logprobs.dtype == entropy.dtype == torch.float32
    (gradient,) = torch.autograd.grad(logprobs.sum() + entropy.sum(), states)
    wide = states.detach().float().requires_grad_()
    everything = torch.log_softmax(wide @ head.weight.float().T / 0.7, -1)
    expected = everything.gather(-1, targets[:, None])[:, 0]
    surprise = -(everything.exp() * everything).sum(-1)
    torch.testing.assert_close(logprobs, expected, atol=2e-2, rtol=0)
    torch.testing.assert_close(entropy, surprise, atol=2e-2, rtol=0)
    (by_hand,) = torch.autograd.grad(expected.sum() + surprise.sum(), wide)
    torch.testing.assert_close(gradient.float(), by_hand, atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize(
    "wish", [{"chunk": 4}, {"softcap": 30.0}, {"s_aux": torch.zeros(4)}, {"attention_mask": torch.ones(1, 1)}]
)
def test_what_the_attention_does_not_know_it_refuses(monkeypatch, wish):
    """Though it changes nothing in rows as short as those that a model is tried on."""
    from transformers.models.llama import modeling_llama

    model = random_model("llama")
    assert Shortcuts.of(model) == PACKED
    choose = modeling_llama.ALL_ATTENTION_FUNCTIONS.get_interface

    def wishing(name, default):
        attention = choose(name, default)
        if name != packing_module.NAME:
            return attention
        return lambda module, q, k, v, mask, **more: attention(
            module, q, k, v, **{"attention_mask": mask} | more | wish
        )

    monkeypatch.setattr(modeling_llama.ALL_ATTENTION_FUNCTIONS, "get_interface", wishing)
    assert Shortcuts.of(model) == WHOLE


def test_a_window_that_is_not_said_is_noticed():
    """Some models hand a sliding layer's mask to attention but not its window."""
    model = random_model("qwen2", sliding_window=40)  # longer than what it is tried on
    assert Shortcuts.of(model) == PACKED
    for layer in model.model.layers:
        layer.self_attn.sliding_window = None
    assert Shortcuts.of(model) == WHOLE


def test_the_last_mlp_runs_for_the_wanted_only():
    model = random_model("llama")
    mlp, line = trunk(model).layers[-1].mlp, torch.randn(1, 7, 32)
    wanted, seen = torch.tensor([1, 4, 6]), []
    expected = mlp(line)[0, wanted]
    hook = mlp.up_proj.register_forward_hook(lambda _m, inputs, _out: seen.append(inputs[0].shape[1]))
    with last_mlp_for(trunk(model), wanted):
        found = mlp(line)
    assert seen == [3]
    torch.testing.assert_close(found[0, wanted], expected, atol=1e-6, rtol=1e-6)
    assert not found[0, [0, 2, 3, 5]].any()
    hook.remove()
    with pytest.raises(KeyError), last_mlp_for(trunk(model), wanted):
        raise KeyError
    assert torch.equal(mlp(line)[0, wanted], expected), "its own forward is back, whatever happened"


def test_a_failure_among_upper_layers_leaves_the_model_whole():
    model = random_model("gemma3_text")
    kinds = list(model.config.layer_types)
    seen = []

    def fail():
        with layers_from(trunk(model), 2):
            seen.append(len(trunk(model).layers))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [1]
    assert len(trunk(model).layers) == 3
    assert model.config.layer_types == kinds


def test_a_critic_of_another_family_goes_its_own_way():
    policy = random_model("llama")
    critic = random_model("gemma2")  # same vocabulary and width, but capped scores
    models = FullActorCritic(policy, random_model("llama"), critic, nn.Linear(32, 1))
    batch = batch_of()
    values = models.values(batch)
    with torch.no_grad():
        states = response_states(critic, batch)
    torch.testing.assert_close(values, values_of(models.value_head, states, batch))
    assert models.shortcuts.packed


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_critic_of_its_own_is_checkpointed_too(family):
    models = FullActorCritic(
        random_model("llama"), random_model("llama"), random_model(family), nn.Linear(32, 1)
    )
    passes = []
    trunk(models.critic).layers[0].self_attn.register_forward_pre_hook(lambda *_: passes.append(1))
    for checkpointed in (False, True):
        models.shortcuts = replace(models.shortcuts, checkpointed=checkpointed)
        models.values(batch_of()).sum().backward()
    assert len(passes) == 1 + 2  # forward; forward and again in the backward


def test_rows_here_are_longer_than_the_window():
    assert max(len(p) + len(r) for p, r in zip(PROMPTS, RESPONSES, strict=True)) > 3 * WINDOW
