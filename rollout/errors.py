"""What can go wrong in the rollout package in ways that its user can mend."""


class RolloutError(Exception):
    """An expected failure; its message is one readable line that says what to do."""
