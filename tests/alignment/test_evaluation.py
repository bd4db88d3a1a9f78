"""Evaluation: hand-worked statistics, exact KL on the sampled tokens, adapters that share their base."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.errors import AlignmentError, ConfigError
from alignment.evaluation.config import EvalConfig
from alignment.evaluation.measures import load_check
from alignment.evaluation.run import evaluate, plan
from alignment.evaluation.sampling import Shelf
from alignment.evaluation.statistics import bootstrap_mean, bootstrap_ratio, kl_estimates, ordered_alike, wins
from alignment.models import load_policy, load_tokenizer
from rollout.types import Sampling


def test_a_mean_lies_in_its_interval_and_needs_values() -> None:
    values = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    estimate = bootstrap_mean(values)
    assert estimate.mean == 0.5
    assert 0.0 <= estimate.low < 0.5 < estimate.high <= 1.0
    with pytest.raises(ValueError, match="nothing"):
        bootstrap_mean(np.empty((0, 2)))


def test_the_interval_resamples_prompts_not_samples() -> None:
    # ten samples of each of 8 prompts that always agree hold no more than 8 observations
    one = np.array([[0.0]] * 4 + [[1.0]] * 4)
    ten = np.repeat(one, 10, axis=1)
    assert bootstrap_mean(ten) == bootstrap_mean(one)


def test_the_interval_is_that_of_the_normal_approximation_for_many_prompts() -> None:
    values = (np.arange(2000) % 5 == 0).astype(float)[:, None]
    estimate = bootstrap_mean(values)
    half = 1.96 * math.sqrt(0.2 * 0.8 / 2000)
    assert estimate.low == pytest.approx(0.2 - half, abs=0.002)
    assert estimate.high == pytest.approx(0.2 + half, abs=0.002)


def test_a_ratio_weighs_prompts_by_what_they_hold() -> None:
    assert bootstrap_ratio(np.array([3.0, 0.0]), np.array([3.0, 1.0])).mean == 0.75


def test_wins_compare_every_sample_with_every_other() -> None:
    ours, theirs = np.array([[1.0, 0.0]]), np.array([[0.0, 0.0]])
    assert wins(ours, theirs).tolist() == [[(1 + 1 + 0.5 + 0.5) / 4]]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=8))
def test_win_rates_of_the_two_sides_add_up_to_one(pairs: list[tuple[int, int]]) -> None:
    ours = np.array([[a] for a, _ in pairs], dtype=float)
    theirs = np.array([[b] for _, b in pairs], dtype=float)
    assert wins(ours, theirs) + wins(theirs, ours) == pytest.approx(np.ones((len(pairs), 1)))


def test_pairs_equal_in_truth_say_nothing_and_equal_scores_count_half() -> None:
    truth = np.array([[0.0, 1.0, 1.0]])  # pairs that differ: (0, 1) and (0, 2)
    alike, pairs = ordered_alike(np.array([[0.0, 2.0, 0.0]]), truth)
    assert (alike.tolist(), pairs.tolist()) == ([1.5], [2.0])


def test_kl_estimates_by_hand() -> None:
    k1, k3 = kl_estimates(np.log([0.5, 0.2]), np.log([0.25, 0.4]))
    assert k1 == pytest.approx(math.log(2) - math.log(2))
    assert k3 == pytest.approx((0.5 - 1 + math.log(2)) + (2 - 1 - math.log(2)))


@given(st.lists(st.tuples(st.floats(-8, -0.1), st.floats(-8, -0.1)), min_size=1, max_size=20))
def test_k3_is_never_negative(logprobs: list[tuple[float, float]]) -> None:
    p, q = np.array(logprobs).T
    assert kl_estimates(p, q)[1] >= -1e-9


def vowels(prompt: list[dict[str, str]], answer: str) -> dict[str, float]:
    share = sum(c in "aeiou" for c in answer)
    return {"success": float(share > 2), "quality": float(share)}


def gives_length(prompt: list[dict[str, str]], answer: str) -> dict[str, float]:
    return {"length": 1.0}


def gives_row(prompt: list[dict[str, str]], answer: str) -> dict[str, float]:
    return {"row": 1.0}


def gives_reward(prompt: list[dict[str, str]], answer: str) -> dict[str, float]:
    return {"reward": 1.0}


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    model = get_peft_model(
        load_policy(str(tiny_model)),
        LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    load_tokenizer(str(tiny_model)).save_pretrained(folder)
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"the inn {i}" * (1 + i)} for i in range(6)] + [{"prompt": "guest " * 400}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def settings(tmp_path: Path, prompts: Path, policies: dict[str, Path], **changes: object) -> EvalConfig:
    values: dict[str, object] = {
        "run": str(tmp_path / "eval"),
        "policies": {name: str(path) for name, path in policies.items()},
        "prompts": str(prompts),
        "samples": 2,
        "sampling": Sampling(max_new_tokens=8, temperature=0.7),
        "check": f"{__name__}:vowels",
        "batch_size": 5,
    }
    return EvalConfig(**(values | changes))


def test_policies_are_compared_on_the_same_prompts(
    tmp_path: Path, tiny_model: Path, adapter: Path, prompts: Path
) -> None:
    config = settings(tmp_path, prompts, {"base": tiny_model, "tuned": adapter})
    figures = evaluate(config)
    assert (figures["prompts"], figures["too_long"], figures["base.answers"]) == (6, 1, 12)
    assert figures["base.kl"] == figures["base.kl_k3"] == 0.0
    assert figures["tuned.kl_k3"] > 0
    for key in ("base.success", "tuned.kl", "win.tuned.base"):
        assert figures[f"{key}.low"] <= figures[key] <= figures[f"{key}.high"]
    assert json.loads((tmp_path / "eval" / "summary.json").read_text()) == figures
    rows = [json.loads(line) for line in (tmp_path / "eval" / "answers.jsonl").open()]
    assert [row["policy"] for row in rows] == ["base"] * 12 + ["tuned"] * 12
    base = [row["success"] for row in rows if row["policy"] == "base"]
    assert figures["base.success"] == pytest.approx(sum(base) / 12)
    assert "the inn 0" in (tmp_path / "eval" / "report.html").read_text()


def test_kl_is_that_of_two_plain_forwards_on_the_sampled_ids(
    tmp_path: Path, tiny_model: Path, adapter: Path, prompts: Path
) -> None:
    from alignment.evaluation.sampling import sample_all
    from alignment.prompts import load_prompts
    from alignment.runs import RunFolder

    config = settings(tmp_path, prompts, {"base": tiny_model, "tuned": adapter})
    answers = sample_all(config, load_prompts(prompts), RunFolder.create(tmp_path / "eval", config)).answers
    base, tuned = load_policy(str(tiny_model)), load_policy(str(adapter))
    for answer in [a for a in answers if a.policy == "tuned"][:5]:
        ids, start = [*answer.prompt.ids, *answer.completion.token_ids], len(answer.prompt.ids)
        sums = []
        for model in (tuned, base):
            with torch.no_grad():
                logprobs = (model(torch.tensor([ids])).logits[0] / 0.7).log_softmax(-1)
            sums.append(sum(logprobs[at - 1, ids[at]].item() for at in range(start, len(ids))))
        assert answer.metrics["kl"] == pytest.approx(sums[0] - sums[1], abs=1e-4)
        # and the engine sampled from just that distribution
        assert sum(answer.completion.logprobs) == pytest.approx(sums[0], abs=1e-4)


def test_taking_an_adapter_off_leaves_the_very_base(tiny_model: Path, adapter: Path) -> None:
    ids = torch.arange(5, 25)[None]
    shelf = Shelf("float32")
    with torch.no_grad():
        before = shelf.take(str(tiny_model))(ids).logits.clone()
        base = shelf.base
        adapted = shelf.take(str(adapter))(ids).logits
        expected = load_policy(str(adapter))(ids).logits
        after = shelf.take(str(tiny_model))(ids).logits
    assert shelf.base is base
    assert torch.equal(before, after)
    assert torch.equal(adapted, expected)
    assert not torch.allclose(adapted, before)


def test_without_the_whole_distribution_there_is_no_kl(
    tmp_path: Path, tiny_model: Path, prompts: Path
) -> None:
    greedy = Sampling(max_new_tokens=4, temperature=0)
    figures = evaluate(settings(tmp_path, prompts, {"base": tiny_model}, sampling=greedy))
    assert "base.kl" not in figures
    assert figures["base.length"] > 0


def completions_of(run: Path, policy: str) -> Path:
    (file,) = run.glob(f"completions.{policy}.*.jsonl")
    return file


def as_a_kill_leaves_it(run: Path, lines: int) -> None:
    """Of the tuned policy so many completions are kept, and half of one more; nothing was measured yet."""
    file = completions_of(run, "tuned")
    whole = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(whole[:lines]) + whole[lines][:20])
    for name in ("answers.jsonl", "summary.json", "report.html"):
        (run / name).unlink()


@pytest.mark.parametrize("lines", [0, 3, 5, 11])
def test_a_run_that_was_cut_off_goes_on_to_the_same_answers(
    tmp_path: Path, tiny_model: Path, adapter: Path, prompts: Path, lines: int
) -> None:
    config = settings(tmp_path, prompts, {"base": tiny_model, "tuned": adapter})
    figures = evaluate(config)
    run = tmp_path / "eval"
    answers, sampled = (run / "answers.jsonl").read_bytes(), completions_of(run, "tuned").read_bytes()
    as_a_kill_leaves_it(run, lines)
    assert evaluate(config, resume=True) == figures
    assert (run / "answers.jsonl").read_bytes() == answers
    assert completions_of(run, "tuned").read_bytes() == sampled


def test_what_was_sampled_is_not_sampled_again_unless_the_policy_has_changed(
    tmp_path: Path, tiny_model: Path, adapter: Path, prompts: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(adapter, own)
    config = settings(tmp_path, prompts, {"base": tiny_model, "tuned": own})
    evaluate(config)
    run = tmp_path / "eval"
    as_a_kill_leaves_it(run, 6)
    file = completions_of(run, "tuned")
    first = json.loads(file.read_text().splitlines()[0])
    stop = {"token_ids": first["token_ids"][:1], "logprobs": first["logprobs"][:1]}
    file.write_text(
        "".join(json.dumps(first | stop) + "\n" if not i else line for i, line in enumerate(file.open()))
    )

    def length() -> float:
        rows = [json.loads(line) for line in (run / "answers.jsonl").open()]
        return next(row["length"] for row in rows if row["policy"] == "tuned")

    evaluate(config, resume=True)
    assert length() == 1  # as it was found
    os.utime(own / "adapter_model.safetensors", ns=(1, 1))
    evaluate(config, resume=True)
    assert length() == len(first["token_ids"])


def test_only_the_same_evaluation_goes_on(tmp_path: Path, tiny_model: Path, prompts: Path) -> None:
    evaluate(settings(tmp_path, prompts, {"base": tiny_model}), resume=True)  # there is none yet: it begins
    with pytest.raises(ConfigError, match="samples changed"):
        evaluate(settings(tmp_path, prompts, {"base": tiny_model}, samples=1), resume=True)


@pytest.mark.parametrize("name", ["length", "row", "reward"])
def test_a_check_may_not_overwrite_what_is_measured(
    tmp_path: Path, tiny_model: Path, prompts: Path, name: str
) -> None:
    config = settings(tmp_path, prompts, {"base": tiny_model}, check=f"{__name__}:gives_{name}")
    with pytest.raises(AlignmentError, match=f"gives {name}, which"):
        evaluate(config)
    kept = (tmp_path / "eval" / "answers.jsonl").read_text().splitlines()
    assert len(kept) == 12  # what was sampled is not lost


@pytest.mark.parametrize("dotted", ["no.such.module:check", "alignment.config:absent", "alignment.config:T"])
def test_a_check_that_is_none_is_an_error_of_the_config(dotted: str) -> None:
    with pytest.raises(ConfigError, match="check"):
        load_check(dotted)


def test_the_config_refuses_nonsense(tmp_path: Path, prompts: Path) -> None:
    with pytest.raises(ValueError, match="none of policies"):
        settings(tmp_path, prompts, {"a": tmp_path}, reference="b")
    with pytest.raises(ValueError, match="write it as package"):
        settings(tmp_path, prompts, {"base": tmp_path}, check="vowels")


def test_a_missing_policy_is_found_before_anything_is_sampled(
    tmp_path: Path, tiny_model: Path, prompts: Path
) -> None:
    policies = {"base": tiny_model, "gone": tmp_path / "gone"}
    config = settings(tmp_path, prompts, policies, check=None)
    with pytest.raises(AlignmentError, match="no model at"):
        evaluate(config)
    with pytest.raises(AlignmentError, match="no model at"):
        plan(config)
    assert not (tmp_path / "eval").exists()
