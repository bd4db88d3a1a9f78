"""The cache with room against transformers' own, and what it is there for: that a step copies nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from rollout.cache import GROWTH, GrowingLayer, growing_cache, with_room
from tests.families import random_model

LLAMA, GEMMA = (random_model(family).config for family in ("llama", "gemma3_text"))
updates = st.integers(1, 6)  # so many new tokens
selections = st.lists(st.integers(0, 7), min_size=1, max_size=8)  # these rows, modulo how many there are


@settings(max_examples=60, deadline=None)
@given(st.lists(updates | selections, max_size=20), st.integers(1, 5), st.sampled_from([LLAMA, GEMMA]))
def test_it_holds_what_transformers_own_does(events, rows, config):
    torch.manual_seed(0)
    ours, theirs = growing_cache(config), DynamicCache(config=config)
    for event in [3, *events]:
        if isinstance(event, list):
            kept = torch.tensor(event) % rows
            ours.batch_select_indices(kept)
            theirs.batch_select_indices(kept)
            rows = len(kept)
        else:
            for layer in range(config.num_hidden_layers):
                key, value = torch.randn(2, rows, 2, event, 4).unbind()
                found = ours.update(key, value[..., :3], layer)  # values may be narrower than keys
                expected = theirs.update(key, value[..., :3], layer)
                assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert ours.get_seq_length() == theirs.get_seq_length()
        assert ours.get_mask_sizes(1, 0) == theirs.get_mask_sizes(1, 0)
        for mine, own in zip(ours.layers, theirs.layers, strict=True):
            assert torch.equal(mine.keys, own.keys)
            assert torch.equal(mine.values, own.values)


def test_layers_with_a_window_are_transformers_own():
    kinds = [type(layer) for layer in growing_cache(GEMMA).layers]
    own = [type(layer) for layer in DynamicCache(config=GEMMA).layers]
    assert kinds == [GrowingLayer if kind is DynamicLayer else kind for kind in own]
    assert kinds.count(GrowingLayer) == 1
    assert len(kinds) == 3


def test_nothing_is_copied_while_there_is_room():
    layer, places = GrowingLayer(), []
    for _ in range(100):
        new = torch.randn(3, 2, 1, 4)
        keys, values = layer.update(new, new)
        assert keys.shape == values.shape == (3, 2, len(places) + 1, 4)
        assert keys.untyped_storage().data_ptr() == layer.room[0].data_ptr()
        places.append((keys.data_ptr(), values.data_ptr()))
    moves = [i for i in range(1, 100) if places[i] != places[i - 1]]
    assert moves == [
        1,
        3,
        6,
        10,
        16,
        25,
        39,
        60,
        91,
    ]  # room for 1, 3, 6, 10, ...: each 1.5 times what was needed
    assert GROWTH == 1.5


def test_rows_that_stay_take_their_room_along():
    layer = GrowingLayer()
    layer.update(*torch.randn(2, 4, 2, 10, 4).unbind())
    layer.batch_select_indices(torch.tensor([3, 1]))
    assert layer.room[0].shape == (2, 2, 15, 4)
    place = layer.keys.data_ptr()
    for _ in range(5):
        keys, _ = layer.update(*torch.randn(2, 2, 2, 1, 4).unbind())
        assert keys.data_ptr() == place
    assert layer.update(*torch.randn(2, 2, 2, 1, 4).unbind())[0].data_ptr() != place


def test_rows_of_an_empty_cache():
    layer = GrowingLayer()
    layer.batch_select_indices(torch.tensor([0]))
    assert layer.get_seq_length() == 0


@pytest.mark.parametrize("rows", [None, torch.tensor([1, 1, 0])])
def test_room_is_filled_from_the_left(rows):
    part = torch.randn(2, 2, 3, 4)
    buffer = with_room(part, 5, rows)
    assert buffer.shape == (2 if rows is None else 3, 2, 5, 4)
    assert torch.equal(buffer[:, :, :3], part if rows is None else part[rows])
