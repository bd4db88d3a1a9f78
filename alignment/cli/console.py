from alignment.console import *  # noqa: F403
