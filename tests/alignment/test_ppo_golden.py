"""Golden run: five iterations of a tiny seeded run, every metric pinned.

The numbers change only where a change is meant to change them. Then delete golden/ppo.json, run this file (it writes
the new numbers and fails), and say in the commit why they moved.
"""

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.alignment.test_ppo_trainer import make_trainer

GOLDEN = Path(__file__).parent / "golden" / "ppo.json"
RUNS = {
    "lora": {"tuning": {"rank": 4, "alpha": 8, "layers": 1}, "kl": {"coef": 0.05, "target": 1.0}},
    "own_critic": {"tuning": {"rank": 4, "alpha": 8}, "critic": {"trunk": "own"}, "kl": {"place": "loss"}},
    "full": {"tuning": {"method": "full"}, "learning_rate": 3e-4},
    "grpo": {"advantages": "grpo", "group": 4, "dual_clip": 3.0, "entropy_coef": 0.01},
}


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory):
    """The tiny model with weights from Python's generator, the same on every machine to the last bit.

    It says a few letters and EOS only: log-probabilities near 0 have small rounding errors, and answers end.
    """
    folder = tmp_path_factory.mktemp("golden") / "model"
    draw = random.Random(0)
    made, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tiny_model),
        AutoTokenizer.from_pretrained(tiny_model),
    )
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" not in name:
                values = [draw.uniform(-0.2, 0.2) for _ in range(parameter.numel())]
                parameter.copy_(torch.tensor(values).view_as(parameter))
        said = [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(list("aBcDe"))]
        made.model.embed_tokens.weight[:, 0] = 2.0  # alike in every state: the head tells tokens by it
        made.lm_head.weight[:, 0] = -8.0
        made.lm_head.weight[said, 0] = 0.0
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("name", "threads"),
    [*((name, 1) for name in RUNS), pytest.param("full", 2, marks=pytest.mark.slow)],  # two threads spin-wait
    indirect=["threads"],
)
def test_five_iterations_give_the_numbers_they_gave(model, name):
    small = {"episodes": 8, "sampling": {"max_new_tokens": 6}, "learning_rate": 1e-3}
    trainer = make_trainer(model, **(small | RUNS[name]))
    rows = [trainer.step() for _ in range(5)]
    known = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if name not in known:
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(known | {name: rows}, indent=1) + "\n")
        pytest.fail(f"{GOLDEN.name} had no numbers for {name}: written; look at them and commit them")
    for row, golden in zip(rows, known[name], strict=True):
        # a metric that is new is no change of the numbers
        assert {key: row[key] for key in golden} == pytest.approx(golden, rel=1e-6, abs=1e-6)
