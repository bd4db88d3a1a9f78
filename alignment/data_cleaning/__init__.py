"""What leaves a data set before a model learns from it, and why: `align data clean`."""

from alignment.data_cleaning.clean import CleaningReport, clean_files
from alignment.data_cleaning.rules import CleaningRules

__all__ = ["CleaningReport", "CleaningRules", "clean_files"]
