"""What an update needs, counted by hand, and the whole benchmark's frame on a model that a CPU runs."""

import torch

from benchmarks.ppo_gpu import Work, typical, update_operations
from benchmarks.ppo_gpu_side import make, ours, sft

TINY = Work(8, 1, 16, 2, 1, 32, True, 4, 3, 5, 6, 2, 2, 2, 2, 1)


def test_operations_by_hand():
    # q, o 64 each, k, v 32 each, three of 128: 576 frozen weights; rank 1: 16 + 12 + 12 + 16 + 3 x 24 = 128
    rows = [3 + 6, 5 + 6]
    attention = 6 * 8 * (9**2 + 11**2)
    head = 4 * 8 * 32 * 6 * 2
    assert update_operations(TINY, [3, 5]) == 2 * ((4 * 576 + 6 * 128) * sum(rows) + attention + head)


def test_the_first_iteration_does_not_count():
    rows = [{"train": 9.0}, {"train": 1.0}, {"train": 3.0}, {"train": 2.0}]
    assert typical(rows) == {"train": 2.0}
    assert typical(rows[:1]) == {"train": 9.0}


def test_both_sides_run(tmp_path):
    folder = str(tmp_path / "model")
    made = make(folder, TINY)
    found = ours(folder, TINY)
    assert found["weights"] == made["weights"]
    assert set(found["seconds"]) == {"generate", "score", "assess", "train", "sync"}
    assert len(found["prompt_lengths"]) == TINY.episodes
    assert sft(folder, TINY)["tokens_per_s"] > 0
    assert torch.cuda.is_available() or found["device"] == "cpu"
