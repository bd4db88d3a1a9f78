"""What can go wrong in the labeling package in ways that its user can mend."""


class LabelingError(Exception):
    """An expected failure; its message is one readable line that says what to do."""
