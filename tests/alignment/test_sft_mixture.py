"""Mixing data sets by temperature or by weights: numbers worked by hand, what must hold, and a run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.config import load_config
from alignment.demo import notes
from alignment.errors import AlignmentError, ConfigError
from alignment.sft import SFTConfig, train_sft
from alignment.sft_mixture import mixed, tempered, whole_shares

sizes = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 40), min_size=1)


def test_shares_by_hand() -> None:
    assert tempered({"a": 300, "b": 100}, 1.0) == pytest.approx({"a": 0.75, "b": 0.25})
    assert tempered({"a": 400, "b": 100}, 2.0) == pytest.approx({"a": 2 / 3, "b": 1 / 3})
    assert tempered({"a": 10**9, "b": 1}, 1e9) == pytest.approx({"a": 0.5, "b": 0.5}, abs=1e-6)
    assert tempered({"a": 400, "b": 100}, 1e-3) == pytest.approx({"a": 1.0, "b": 0.0})
    assert whole_shares({"a": 0.5, "b": 0.3, "c": 0.2}, 7) == {"a": 4, "b": 2, "c": 1}  # 3.5, 2.1, 1.4


@settings(deadline=None)  # torch is loaded by the first example
@given(sizes, st.floats(0.5, 10), st.integers(1, 200))
def test_every_example_of_a_set_comes_equally_often(
    counts: dict[str, int], temperature: float, total: int
) -> None:
    examples = {name: [(name, i) for i in range(n)] for name, n in counts.items()}
    shares = tempered(counts, temperature)
    assert sum(shares.values()) == pytest.approx(1)
    drawn = mixed(examples, shares, total, seed=0)
    assert len(drawn) == total
    often = Counter(drawn)
    for name, some in examples.items():
        times = [often[one] for one in some]
        assert max(times) - min(times) <= 1
        assert abs(sum(times) - shares[name] * total) < 1


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def config_of(tiny_model: Path, folder: Path, **keys: object) -> SFTConfig:
    large, small = (write(folder / f"{n}.jsonl", notes.references(n, n)) for n in (60, 15))
    defaults: dict[str, object] = {
        "run": str(folder / "run"),
        "model": {"path": str(tiny_model)},
        "tuning": {"rank": 4},
        "data": {"large": large, "small": small},
        "batch_size": 8,
        "microbatch": 8,
        "max_length": 256,
        "learning_rate": 1e-3,
    }
    return SFTConfig.model_validate(defaults | keys)


def test_a_mixture_trains_and_is_told(tiny_model: Path, tmp_path: Path) -> None:
    long = [{"prompt": "where?", "completion": "by the river " * 200}]
    other = write(tmp_path / "other.jsonl", notes.references(12, 7) + long)
    config = config_of(tiny_model, tmp_path, temperature=2.0)
    config = config.model_copy(
        update={"data": {"large": config.data["large"], "small": other}, "neftune": 5.0}
    )
    figures = train_sft(config)
    kept = figures["examples"]
    assert kept + figures["held_out"] == 72
    assert figures["steps"] == round(kept / 8)
    assert figures["shares"]["large"] == pytest.approx(54**0.5 / (54**0.5 + 11**0.5))
    (reject,) = [json.loads(line) for line in (tmp_path / "run" / "rejects.jsonl").read_text().splitlines()]
    assert (reject["data"], reject["row"]) == ("small", 13)


def test_training_stops_when_the_held_out_loss_does(tiny_model: Path, tmp_path: Path) -> None:
    config = config_of(tiny_model, tmp_path, epochs=6, learning_rate=0.5, save_every=2, patience=2)
    figures = train_sft(config)
    assert figures["steps"] < 51
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["eval_held_out_loss"] for row in rows if "eval_held_out_loss" in row]
    assert figures["held_out_loss"] == pytest.approx(min(losses), abs=1e-4)  # the best is kept
    assert min(losses[-2:]) >= min(losses)


def test_what_is_forgotten_is_noticed(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    general = write(tmp_path / "general.jsonl", [{"prompt": "where?", "completion": "%&@ #~^ {} <>"}] * 3)
    config = config_of(
        tiny_model,
        tmp_path,
        epochs=3,
        learning_rate=1e-2,
        tuning={"method": "full"},
        save_every=10,
        general=general,
        forgetting_alarm=1.01,
    )
    figures = train_sft(config)
    assert figures["general_perplexity_before"] == pytest.approx(
        320, rel=0.2
    )  # a random model's: its vocabulary
    assert figures["general_perplexity"] > 1.01 * figures["general_perplexity_before"]
    assert figures["forgetting_alarm"]
    assert "forgetting: at step 10 the perplexity of `general` is" in " ".join(
        capsys.readouterr().err.split()
    )
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "eval_general_loss" in row][:2] == [10, 20]


def test_what_cannot_be_mixed_is_said(tiny_model: Path, tmp_path: Path) -> None:
    base = ["run=x", "model.path=y"]
    for more, said in [
        (["data={a: a.jsonl, b: b.jsonl}", "weights={a: 0.5, b: 0.4}"], "must sum to 1, not to 0.9"),
        (["data={a: a.jsonl, b: b.jsonl}", "weights={a: 0.5, c: 0.5}"], "'b' is in one of them only"),
        (["data={a: a.jsonl, b: b.jsonl}", "weights={a: 1.5, b: -0.5}"], "0 or more"),
        (["data={a: a.jsonl, b: b.jsonl}", "weights={a: 1, b: 0}", "temperature=2"], "not both"),
        (["data=a.jsonl", "temperature=2"], "give data={name: path"),
    ]:
        with pytest.raises(ConfigError, match=said):
            load_config(SFTConfig, None, [*base, *more])
    empty = write(tmp_path / "empty.jsonl", [])
    with pytest.raises(AlignmentError, match="is empty: it needs rows"):
        train_sft(config_of(tiny_model, tmp_path, data={"large": empty, "small": empty}))
    with pytest.raises(AlignmentError, match="no row of `general` can be used"):
        train_sft(
            config_of(
                tiny_model,
                tmp_path,
                general=write(tmp_path / "g.jsonl", [{"prompt": "a", "completion": " "}]),
            )
        )
