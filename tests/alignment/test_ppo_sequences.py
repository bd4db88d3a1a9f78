"""Masks come from lengths: whatever the ids are, every response token counts and no pad does."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.ppo.experience import Rollouts, microbatches
from alignment.ppo.sequences import join
from rollout.types import Completion

EOS = PAD = 2
ids = st.lists(st.integers(0, 4), min_size=1, max_size=5)


@given(st.lists(st.tuples(ids, ids), min_size=1, max_size=5))
def test_every_response_token_counts_though_pad_equals_eos(rows):
    prompts, responses = [p for p, _ in rows], [r for _, r in rows]
    batch = join(prompts, responses, PAD)
    assert batch.response_mask.sum(1).tolist() == [len(r) for r in responses]
    assert batch.targets.tolist() == [token for r in responses for token in r]
    by_row = batch.to_rows(batch.targets.float())
    for row, response in zip(by_row, responses, strict=True):
        assert row[: len(response)].tolist() == response
        assert not row[len(response) :].any()
    predicted_from = batch.ids[batch.predicts].tolist()
    expected = [t for p, r in rows for t in [p[-1], *r[:-1]]]
    assert predicted_from == expected


def test_an_eos_that_was_sampled_is_kept_and_trained_on():
    batch = join([[1, 2], [1]], [[3, EOS], [EOS]], PAD)
    assert batch.response_mask.tolist() == [[True, True], [True, False]]
    assert batch.targets.tolist() == [3, EOS, EOS]


def test_truncation_is_what_the_engine_says():
    completions = [
        Completion((3, EOS), (-1.0, -2.0), "length", 0),  # ends in a stop id by chance of its meaning
        Completion((3, 4), (-1.0, -2.0), "stop", 0),  # stopped on another of the model's stop ids
    ]
    rollouts = Rollouts.from_completions([[1], [1]], completions, ["a", "b"], PAD)
    assert rollouts.truncated.tolist() == [True, False]
    assert rollouts.engine_logprobs.tolist() == [[-1.0, -2.0], [-1.0, -2.0]]


def test_nothing_is_no_response():
    with pytest.raises(ValueError, match="at least one token"):
        join([[1]], [[]], PAD)
    with pytest.raises(ValueError, match="at least one token"):
        join([[]], [[1]], PAD)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 8))
def test_microbatches_hold_every_row_once(lengths, size):
    batch = join([[1]] * len(lengths), [[3] * n for n in lengths], PAD)
    parts = list(microbatches(batch, torch.arange(len(lengths)), size))
    assert sorted(torch.cat(parts).tolist()) == list(range(len(lengths)))
    assert all(len(part) <= size for part in parts)


def test_select_cuts_to_the_longest_row_chosen():
    batch = join([[1, 1], [1]], [[3, 3, 3], [4]], PAD).select(torch.tensor([1]))
    assert batch.ids.tolist() == [[1, 4]]
