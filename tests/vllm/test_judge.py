"""A judge job on the team's own model: `align serve` on the real vLLM, and `align judge run` against it.

The model says A or B, whatever it is asked, and ends: what counts is that its replies are read, kept and never asked
for again.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("vllm")

from tests.vllm.test_serve import serving, wait_for

COMPARISONS = 6


@pytest.fixture(scope="module")
def base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's tokenizer with heads as wide as vLLM's attention wants them, and room for a judge's prompt."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("judge") / "base"
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(
        tiny_model, hidden_size=64, head_dim=32, intermediate_size=128, max_position_embeddings=8192,
        tie_word_embeddings=False,
    )  # fmt: skip
    model, tokenizer = LlamaForCausalLM(config).eval(), AutoTokenizer.from_pretrained(tiny_model)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Which?"}], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    ((a,), (b,)) = (tokenizer.encode(label, add_special_tokens=False) for label in "AB")
    with torch.no_grad():
        for layer in model.model.layers:  # what comes next depends on the last token alone
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        after = {
            token: model.model(torch.tensor([[token]])).last_hidden_state[0, 0] for token in (asked[-1], a, b)
        }
        head = model.lm_head.weight.zero_()
        says = {a: 12.0 * after[asked[-1]], b: 11.5 * after[asked[-1]]}
        says[tokenizer.eos_token_id] = 12.0 * (after[a] + after[b])
        for token, towards in says.items():
            head[token] = towards / 64  # the norm's outputs have 64 as the square of their length
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def filled(folder: Path, name: str) -> str:
    from labeling.store import Store
    from labeling.views import NewComparison, NewCompletion

    sides = [NewCompletion([{"role": "assistant", "content": text}]) for text in ("please come", "come")]
    path = str(folder / name)
    Store.open(path).add_comparisons(
        NewComparison([{"role": "user", "content": f"Invite guest {i}."}], sides) for i in range(COMPARISONS)
    )
    return path


def run(store: str, *settings: str) -> dict:
    from alignment.cli.judge import app

    result = CliRunner().invoke(app, ["run", "--store", store, "--json", *settings])
    assert result.exit_code == 0, (result.stderr, result.exception)
    return dict(json.loads(result.stdout))


@pytest.mark.timeout(400)
def test_a_served_model_judges_and_is_never_asked_twice(base: Path, tmp_path: Path) -> None:
    with serving(tmp_path, base) as (process, url):
        wait_for(url, process)
        for verdict in ("logprobs", "json"):
            store = filled(tmp_path, f"{verdict}.db")
            settings = (f"base_url={url}/v1", f"model={base}", f"verdict={verdict}")
            report = run(store, *settings)
            assert report["calls"]["answered"] == 2 * COMPARISONS  # both orders
            assert sum(report["outcomes"].values()) == COMPARISONS
            assert "api_error" not in {name for name, count in report["outcomes"].items() if count}
            if verdict == "logprobs":
                assert (report["outcomes"], report["labels"]) == ({"tie": COMPARISONS}, COMPARISONS), report
            again = run(store, *settings)
            assert again["calls"]["attempts"] == 0
