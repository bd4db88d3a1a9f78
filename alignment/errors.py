"""What can go wrong in the alignment package in ways that its user can mend."""


class AlignmentError(Exception):
    """An expected failure; its message is one readable line that says what to do."""


class ConfigError(AlignmentError):
    """The config or the command line is wrong: nothing was started (exit code 2)."""
