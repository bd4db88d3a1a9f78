"""Functions that tests name as reward rules. Conversations in, a number for each out."""


def length(conversations):
    return [len(conversation[-1]["content"]) for conversation in conversations]


def brevity(conversations):
    return [-len(conversation[-1]["content"]) for conversation in conversations]


def too_few(conversations):
    return [1.0]


def words(conversations):
    return ["good"] * len(conversations)


def not_a_list(conversations):
    return 3


def not_finite(conversations):
    return [1.0, float("nan"), float("inf")][: len(conversations)]


def raises(conversations):
    raise KeyError("no such\nthing")


NOT_A_FUNCTION = 3
