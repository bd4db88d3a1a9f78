"""What can go wrong in the reward package in ways that its user can mend."""


class RewardError(Exception):
    """An expected failure; its message is one readable line that says what to do."""
