"""Random tokens, of which the store only ever sees the SHA-256, and passwords, of which it sees an argon2 hash.

Hashing takes tens of milliseconds: a server calls it in a thread, off its event loop.
"""

from __future__ import annotations

import hashlib
import secrets
import unicodedata
from functools import cache
from threading import BoundedSemaphore

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from labeling.errors import LabelingError

SHORTEST_PASSWORD, LONGEST_PASSWORD = 10, 256
# OWASP's parameters: 19 MiB a hash. At most four at once, so that a rush of sign-ins cannot eat the memory.
HASHER = PasswordHash([Argon2Hasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)])
AT_ONCE = BoundedSemaphore(4)


def new_token(prefix: str = "") -> str:
    """A secret of 32 random bytes, fit for a URL."""
    return prefix + secrets.token_urlsafe(32)


def digest(token: str) -> str:
    """The hex SHA-256 by which the store knows a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def hash_password(password: str) -> str:
    """The argon2 hash to store. Raises LabelingError for a password that is too short or too long."""
    password = unicodedata.normalize("NFKC", password)
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise LabelingError(f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")
    with AT_ONCE:
        return HASHER.hash(as_bytes(password))


def is_password(password: str, stored: str | None) -> bool:
    """Whether this is the password behind a stored hash; without one it is not, after the same time."""
    password = unicodedata.normalize("NFKC", password)[: LONGEST_PASSWORD + 1]
    nobody = nobodys_hash()
    with AT_ONCE:
        right = HASHER.verify(as_bytes(password), stored or nobody)
    return right and stored is not None


@cache
def nobodys_hash() -> str:
    """What the password given for an unknown name is checked against, so that the answer takes as long."""
    return hash_password(new_token())


def as_bytes(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")
