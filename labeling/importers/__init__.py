"""Data sets of other people and tools, brought into the store."""

from labeling.importers.load import ImportReport, import_path

__all__ = ["ImportReport", "import_path"]
