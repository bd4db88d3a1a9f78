"""Data sets of other people and tools, brought into the store."""

from labeling.importers.load import import_path
from labeling.importers.report import ImportReport

__all__ = ["ImportReport", "import_path"]
