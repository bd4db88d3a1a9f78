"""How figures are called and shown where people read them."""

from __future__ import annotations

from alignment.evaluation.metrics import METRICS

REFUSALS = ("over_refusal", "under_refusal")
CHECKED = ("complete", "faithful", "polite", "wellformed")  # by the demo's checks; what a wrong answer lacks
SHARES = {"success", *CHECKED, "truncated", "exact_match", "toxic", *REFUSALS}  # in percent
LEAD_METRICS = (
    "success",
    "quality",
    "reward",
    *METRICS,
)  # the first of these that was measured is the headline
NAMES = {
    "kl": "KL (nats)",
    "kl_k3": "KL, k3 (nats)",
    "length": "length (tokens)",
    "success": "fully right",
    "exact_match": "exact match",
    "f1": "F1 of words",
    "bleu": "BLEU",
    "chrf": "chrF",
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "over_refusal": "over-refusal",
    "under_refusal": "under-refusal",
    "toxic": "holds a listed word",
    "perplexity": "perplexity of the text",
    "bits_per_byte": "bits per byte of the text",
}


def name_of(metric: str) -> str:
    return NAMES.get(metric, metric)
