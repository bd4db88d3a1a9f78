"""TRL's DPO trainer with losses for soft, weighted labels, on rows that come tokenized, in lines without padding."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import SequentialSampler
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import use_adapter

from alignment.dpo.config import LossConfig
from alignment.dpo.head import score_answers_only
from alignment.dpo.line import IGNORED, as_line, by_answer, pairs_in_line
from alignment.dpo.losses import KINDS, Side, kto_loss, pair_loss
from alignment.dpo.reference import SAID, Logps, cache_key, kept, with_reference
from reward.losses import weighted_mean

POLICY, REFERENCE = "default", "ref"  # adapters, as TRL names them; the latter where the policy came as one
LABELS = ("p_first", "margin", "weight")
COLUMNS = ["prompt_ids", "first_ids", "second_ids", "length", *SAID, *LABELS]
TRIAL = [  # two pairs with prompts and answers of unlike lengths, in tokens counted from 2
    {"prompt_ids": [2, 3, 4, 5], "first_ids": [6, 7, 8, 9, 10], "second_ids": [11, 12]},
    {"prompt_ids": [4, 2], "first_ids": [5], "second_ids": [9, 3, 8, 12]},
]


@dataclass
class Collator:
    """Rows in one line or, where the model does not allow that, side by side and padded, first answers above.

    like: a tensor of the model's dtype and device. Labels and the reference's log-probabilities are (b,) floats.
    """

    pad_token_id: int
    like: Tensor
    in_line: bool = True

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        numbers = {
            name: torch.tensor([row[name] for row in rows]).float()
            for name in (*SAID, *LABELS)
            if name in rows[0]
        }
        if self.in_line:
            return as_line(rows, self.pad_token_id, self.like) | numbers
        sides = DataCollatorForPreference(pad_token_id=self.pad_token_id).torch_call(
            [
                {
                    "prompt_ids": row["prompt_ids"],
                    "chosen_ids": row["first_ids"],
                    "rejected_ids": row["second_ids"],
                }
                for row in rows
            ]
        )
        targets = sides["input_ids"].masked_fill(sides.pop("completion_mask") == 0, IGNORED)
        return sides | {"targets": targets} | numbers


class PreferenceTrainer(DPOTrainer):
    """Every loss of `alignment.dpo.losses`. The reference is the policy as it is when the trainer is made."""

    train_dataset: Dataset
    eval_dataset: Dataset | None

    def __init__(self, *args: Any, settings: LossConfig, max_length: int, cache: Path, **kwargs: Any) -> None:
        """max_length: tokens of the longest conversation; cache: folder for what the reference says."""
        super().__init__(*args, **kwargs)
        self.settings = settings
        self.kind = KINDS[settings.loss]
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        score_answers_only(base)
        self.data_collator.in_line = self._goes_in_line(base, max_length)
        # a line has no padding that rows of like length would spare
        self.args.train_sampling_strategy = "random" if self.data_collator.in_line else "group_by_length"
        if self.kind.reference:
            self.train_dataset = self._with_reference(self.train_dataset, cache)
            if self.eval_dataset is not None:
                self.eval_dataset = self._with_reference(self.eval_dataset, cache)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """The policy's adapter. Beside a reference that is an adapter too, transformers would load the latter alone."""
        if REFERENCE not in getattr(self.model, "peft_config", {}):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        from peft import load_peft_weights, set_peft_model_state_dict

        weights = load_peft_weights(resume_from_checkpoint, device="cpu")
        set_peft_model_state_dict(self.model, weights, adapter_name=POLICY)

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset  # tokenized before, so that what is left out is counted

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        return dataset  # done by _with_reference, once the model is ready

    def _set_signature_columns_if_needed(self) -> None:
        # columns that are not named here are dropped before the collator sees them
        self._signature_columns = COLUMNS

    def _get_eval_sampler(self, eval_dataset: Any) -> SequentialSampler:
        return SequentialSampler(eval_dataset)  # in order, since what is found is put beside the rows' labels

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        with self._attention():  # checkpointed layers run again in the backward
            return super().training_step(*args, **kwargs)

    def _attention(self) -> AbstractContextManager[None]:
        return pairs_in_line(self.model) if self.data_collator.in_line else nullcontext()

    def logps(self, model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Log-probabilities and token counts of both answers of each row, (b, 2) each. Call it inside `_attention`."""
        said = {
            name: inputs[name] for name in ("input_ids", "attention_mask", "position_ids") if name in inputs
        }
        targets = inputs["targets"]
        if "part_lengths" not in inputs:
            found = model(**said, labels=targets, fused_lm_head=True, use_cache=False).log_probs.sum(1)
            return tuple(x.view(2, -1).T for x in (found, (targets != IGNORED).sum(1)))  # type: ignore[return-value]
        lengths = inputs["part_lengths"]
        parts = [(a, b, c) for a, b, c in lengths.tolist()]
        line = model(**said, shift_labels=targets, fused_lm_head=True, use_cache=False, parts=parts).log_probs
        return by_answer(line, parts), lengths[:, 1:]

    @torch.no_grad()
    def _goes_in_line(self, base: Any, max_length: int) -> bool:
        """Whether a line gives what rows side by side give, tried on two short pairs: not every build allows it."""
        window = getattr(base.config.get_text_config(), "sliding_window", None)
        if window is not None and window < max_length:
            return False
        was_training = self.model.training
        self.model.eval()
        found = []
        try:
            for self.data_collator.in_line in (False, True):
                batch = self._prepare_inputs(self.data_collator(TRIAL))
                with self._attention():
                    found.append(self.logps(self.model, batch)[0].float())
        except (AttributeError, LookupError, TypeError, ValueError, RuntimeError):  # a model of another build
            return False
        finally:
            self.model.train(was_training)
        allowed = 32 * torch.finfo(self.data_collator.like.dtype).eps * found[0].abs().max().clamp(min=1)
        return bool((found[0] - found[1]).abs().max() <= allowed)

    def _with_reference(self, rows: Dataset, cache: Path) -> Dataset:
        about = self._precompute_model_hash, self.accelerator.mixed_precision
        file = cache / f"{cache_key(rows, *about)}.json"
        main = self.accelerator.is_main_process
        logps = kept(file, len(rows), lambda: self._reference(rows), writes=main)
        return with_reference(rows, logps)

    @torch.no_grad()
    def _reference(self, rows: Dataset) -> Logps:
        """What the policy says before its first step.

        With virtual tokens, whose random start is no identity, it is the base that is asked.
        """
        batches = self.get_test_dataloader(rows)
        model = self.accelerator.unwrap_model(self.model)
        virtual = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)
        without = use_adapter(model, None) if virtual else nullcontext()
        self.model.eval()
        found: Logps = []
        with without, self._attention():
            for batch in batches:
                with self.compute_loss_context_manager():
                    logps, _ = self.logps(self.model, self._prepare_inputs(batch))
                found += self.accelerator.gather_for_metrics(logps).float().tolist()
        return found

    def sides(self, model: Any, inputs: dict[str, Tensor]) -> tuple[Side, Side]:
        logps, tokens = self.logps(model, inputs)
        return tuple(  # type: ignore[return-value]
            Side(logps[:, i].float(), tokens[:, i], inputs.get(SAID[i])) for i in range(2)
        )

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool) -> Any:
        with self._attention():
            first, second = self.sides(model, inputs)
        if self.settings.loss == "kto":
            loss = self._single(first, second, inputs["p_first"])
        else:
            loss, *scores = pair_loss(first, second, inputs["p_first"], inputs["margin"], self.settings)
            self._note(*(score.detach() for score in scores))
        loss = weighted_mean(loss, inputs["weight"])
        return (loss, {}) if return_outputs else loss

    def _single(self, answer: Side, elsewhere: Side, p_good: Tensor) -> Tensor:
        """KTO's loss; the KL is the microbatch's, estimated on answers to other prompts."""
        reward, other = (self.kind.score(side, self.settings.beta) for side in (answer, elsewhere))
        usual = self.accelerator.gather(other.detach().mean()).mean().clamp(min=0)
        good, bad = p_good > 0.5, p_good < 0.5
        self._log_means(
            {
                "rewards/chosen": reward.detach()[good],
                "rewards/rejected": reward.detach()[bad],
                "kl": usual[None] / self.settings.beta,
            }
        )
        return kto_loss(reward, usual, p_good)

    def _note(self, chosen: Tensor, rejected: Tensor) -> None:
        self._log_means(
            {
                "rewards/chosen": chosen,
                "rewards/rejected": rejected,
                "rewards/accuracies": (chosen > rejected).float(),
                "rewards/margins": chosen - rejected,
            }
        )

    def _log_means(self, rows: dict[str, Tensor]) -> None:
        """Metrics under TRL's names; its `log` takes their means."""
        mode = "train" if self.model.training else "eval"
        for name, values in rows.items():
            total = (
                self.accelerator.gather(torch.stack([values.sum(), values.new_tensor(len(values))]))
                .view(-1, 2)
                .sum(0)
            )
            if total[1]:
                self._metrics[mode][name].append((total[0] / total[1]).item())

    @torch.no_grad()
    def held_out_scores(self, batches: Iterable[dict[str, Any]]) -> tuple[list[float], list[float]]:
        """Scores of both answers of every row of `batches` (such as `get_eval_dataloader()`), in order."""
        self.model.eval()
        scores: tuple[list[float], list[float]] = ([], [])
        for batch in batches:
            with self.compute_loss_context_manager(), self._attention():
                sides = self.sides(self.model, self._prepare_inputs(batch))
            found = self.accelerator.gather_for_metrics(
                [self.kind.score(s, self.settings.beta) for s in sides]
            )
            for all_of_them, some in zip(scores, found, strict=True):
                all_of_them.extend(some.float().tolist())
        return scores
