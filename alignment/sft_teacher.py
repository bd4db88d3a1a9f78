"""Distillation: the student learns what a larger teacher would say at every token of the answers, not these alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from alignment.errors import AlignmentError
from alignment.models import load_policy, load_tokenizer, stop_token_ids
from alignment.sft_config import TeacherConfig
from alignment.sft_data import IGNORED
from alignment.sft_evaluation import AnswerTrainer

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
from trl.experimental.gkd import GKDTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_teacher(config: TeacherConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Raises AlignmentError unless the teacher has the student's vocabulary: their distributions are compared."""
    if load_tokenizer(config.path).get_vocab() != tokenizer.get_vocab():
        raise AlignmentError(
            f"teacher.path={config.path} has another vocabulary than the student, so their distributions cannot be "
            "compared: take a teacher of the same family, or sample its answers with `align rollout` and learn those"
        )
    return load_policy(config.path, config.dtype).requires_grad_(False)


class DistillationTrainer(AnswerTrainer):
    """Trains on the divergence from the teacher (generalized Jensen-Shannon; Agarwal et al. 2024), per answer token.

    Evaluation is on the plain loss, so that held-out loss and perplexity mean what they do without a teacher.
    """

    def __init__(
        self, *args: Any, teacher: PreTrainedModel, beta: float, on_policy: float = 0.0, **kwargs: Any
    ) -> None:
        """beta: 0 for KL(teacher || student), 1 for KL(student || teacher), between: a mixture of both.

        on_policy: share of the microbatches whose answers are sampled from the student.
        """
        super().__init__(*args, **kwargs)
        self.teacher = self.accelerator.prepare_model(teacher, evaluation_mode=True).eval()
        self.beta = beta
        self.on_policy = on_policy

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        if self.on_policy and torch.rand(()).item() < self.on_policy:
            inputs = self.with_own_answers(self._prepare_inputs(inputs))
            num_items_in_batch = None  # it counts the tokens of the answers that are not used: a mean instead
        return super().training_step(model, inputs, num_items_in_batch)

    @torch.no_grad()
    def with_own_answers(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The same prompts, each with an answer sampled from the student, of at most the tokens of the longest."""
        model, tokenizer = self.accelerator.unwrap_model(self.model), self.processing_class
        answers = inputs["labels"] != IGNORED
        prompts = [
            ids[:start]
            for ids, start in zip(inputs["input_ids"], answers.int().argmax(1).tolist(), strict=True)
        ]
        padded = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        stops = stop_token_ids(model, tokenizer)
        model.eval()
        said = model.generate(
            **padded.to(inputs["input_ids"].device),
            generation_config=GenerationConfig(
                do_sample=True,
                temperature=1.0,  # what the model's own settings may bend is said here
                top_k=0,
                top_p=1.0,
                repetition_penalty=1.0,
                use_cache=True,
                max_new_tokens=int(answers.sum(1).max()),
                eos_token_id=list(stops),
                pad_token_id=tokenizer.pad_token_id,
            ),
        )[:, padded["input_ids"].shape[1] :].tolist()
        model.train()
        rows = []
        for prompt, answer in zip((ids.tolist() for ids in prompts), said, strict=True):
            end = next((i + 1 for i, token in enumerate(answer) if token in stops), len(answer))
            rows.append(
                {"input_ids": prompt + answer[:end], "labels": [IGNORED] * len(prompt) + answer[:end]}
            )
        collated: dict[str, Any] = self._prepare_inputs(self.data_collator(rows))
        return collated

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        if not self.model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        total, tokens = self.summed_divergence(model, inputs)
        if num_items_in_batch is None:
            return total / max(tokens, 1)
        ranks = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return total / num_items_in_batch * ranks  # DDP averages over them

    def summed_divergence(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, int]:
        """Over the answer tokens of a batch, in nats; and how many these are."""
        said = {name: value for name, value in inputs.items() if name != "labels"} | {"use_cache": False}
        predicts = inputs["labels"][:, 1:] != IGNORED  # (b, tokens - 1)
        tokens = inputs["labels"].shape[1]
        student = model(**said).logits[:, -tokens:][:, :-1]  # virtual tokens may stand before them
        student = student[predicts]  # (answer tokens, vocabulary)
        with torch.no_grad():
            teacher = self.teacher(**said).logits[:, :-1][predicts]
        width = min(student.shape[-1], teacher.shape[-1])  # some models round their vocabulary up
        total = GKDTrainer.generalized_jsd_loss(
            student[:, :width].float(), teacher[:, :width].float(), beta=self.beta, reduction="sum"
        )
        return total, len(student)

    @torch.no_grad()
    def divergence(self, dataset: Any) -> float:
        """From the teacher, a token of the answers in `dataset`, in nats."""
        self.model.eval()
        total, tokens = 0.0, 0
        for batch in self.get_eval_dataloader(dataset):
            with self.compute_loss_context_manager():
                some, count = self.summed_divergence(self.model, self._prepare_inputs(batch))
            total, tokens = total + some.item(), tokens + count
        return total / tokens
