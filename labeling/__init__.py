"""Who prefers what: prompts, completions, comparisons and labels; the store, the judge and the snapshots."""

from labeling.errors import LabelingError
from labeling.views import (
    Added,
    ComparisonView,
    LabelView,
    NewAnswer,
    NewComparison,
    NewCompletion,
    NewLabel,
)

__all__ = [
    "Added",
    "ComparisonView",
    "LabelView",
    "LabelingError",
    "NewAnswer",
    "NewComparison",
    "NewCompletion",
    "NewLabel",
]
