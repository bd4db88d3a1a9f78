"""TRL 1.12's side of `benchmarks.ppo_gpu`, run by an interpreter that has TRL 1.12: `trl MODEL WORK` (JSON).

Weights are in bfloat16, the policy has LoRA on all linear layers and the adapter-off reference, the value model is a
whole model of the same shape (TRL tunes it in full), the reward is a rule on token ids.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from types import SimpleNamespace

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class EvenTokens(torch.nn.Module):
    """The reward's trunk: the share of even token ids so far; TRL reads it at the last token."""

    def forward(self, input_ids, attention_mask=None, **_):
        share = (input_ids % 2 == 0).float().cumsum(1) / torch.arange(
            1, input_ids.shape[1] + 1, device=input_ids.device
        )
        return SimpleNamespace(hidden_states=[4 * share[..., None]])


class Reward(torch.nn.Module):
    base_model_prefix = "model"

    def __init__(self):
        super().__init__()
        self.model, self.score = EvenTokens(), torch.nn.Identity()


def now() -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main(model: str, work: dict) -> None:
    draw = torch.Generator().manual_seed(0)
    count = work["episodes"] * work["trl_iterations"]
    lengths = torch.randint(work["shortest_prompt"], work["longest_prompt"] + 1, (count,), generator=draw)
    rows = [torch.randint(4, work["vocabulary"], (int(n),), generator=draw).tolist() for n in lengths]
    prompts = Dataset.from_dict({"input_ids": rows})
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    value = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch.bfloat16)
    config = PPOConfig(
        output_dir=tempfile.mkdtemp(),
        learning_rate=1e-5,
        per_device_train_batch_size=work["trl_microbatch"],
        gradient_accumulation_steps=work["episodes"] // work["trl_microbatch"],
        num_mini_batches=work["minibatches"],
        num_ppo_epochs=work["epochs"],
        total_episodes=count,
        response_length=work["answer"],
        stop_token="eos",
        temperature=1.0,
        local_rollout_forward_batch_size=work["trl_rows"],
        report_to="none",
        save_strategy="no",
        num_sample_generations=0,
        logging_steps=1,
        gradient_checkpointing=False,
        bf16=DEVICE.type == "cuda",
        use_cpu=DEVICE.type == "cpu",
        disable_tqdm=True,
    )
    spent: list[tuple[float, float]] = []  # seconds of each iteration, and those of its generation
    generating = [0.0]
    answer = ppo_trainer.batch_generation

    def timed(*args, **kwargs):
        started = now()
        found = answer(*args, **kwargs)
        generating[0] += now() - started
        return found

    ppo_trainer.batch_generation = timed

    class Timed(PPOTrainer):
        begun = 0.0

        def log(self, *_, **__):
            spent.append((now() - self.begun, generating[0]))
            generating[0], self.begun = 0.0, now()

    lora = LoraConfig(
        r=work["rank"], lora_alpha=2 * work["rank"], target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer = Timed(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=None,
        reward_model=Reward(),
        value_model=value,
        train_dataset=prompts,
        eval_dataset=prompts.select(range(4)),
        peft_config=lora,
    )
    trainer.begun = now()
    trainer.train()
    measured = spent[1:] or spent
    seconds, generate = (sorted(column)[len(measured) // 2] for column in zip(*measured, strict=True))
    peak = torch.cuda.max_memory_allocated() / 1e9 if DEVICE.type == "cuda" else 0.0
    print(json.dumps({"seconds": seconds, "generate_s": generate, "peak_gb": peak}))


if __name__ == "__main__":
    main(sys.argv[2], json.loads(sys.argv[3]))
