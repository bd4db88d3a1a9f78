"""An OpenAI-compatible endpoint: where it is, where its key is, and how it says "later"."""

from __future__ import annotations

import math
import os
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from rollout.errors import RolloutError


class Endpoint(BaseModel):
    """Where a policy is served. The key itself is never in a config, only the name of its variable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str = Field("http://127.0.0.1:8000/v1", description="any OpenAI-compatible endpoint")
    api_key_env: str | None = Field(
        None, description="NAME of the environment variable that holds the key; null if none is needed"
    )
    concurrency: int = Field(16, ge=1, description="requests under way at once")
    timeout_seconds: float = Field(300.0, gt=0, description="longest wait for one reply")
    max_attempts: int = Field(6, ge=1, description="of one request; Retry-After is honoured")


def read_key(endpoint: Endpoint) -> str | None:
    if endpoint.api_key_env is None:
        return None
    key = os.environ.get(endpoint.api_key_env, "").strip()
    if not key:
        raise RolloutError(
            f"the environment variable {endpoint.api_key_env} is not set; it should hold the key for "
            f"{endpoint.base_url}"
        )
    return key


def is_loopback(url: str) -> bool:
    """Whether `url` is on this machine, where no proxy leads."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def seconds_to_wait(headers: Any) -> float | None:
    """What Retry-After asks for: seconds, or a date (RFC 9110, 10.2.3). None if it asks nothing."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
