"""What a judge job is told. The key itself is never in a config: only the name of its environment variable."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator


class JudgeConfig(BaseModel):
    """One judge: an endpoint, a model, how it is asked and how its answer is read."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    base_url: str = Field(
        "http://127.0.0.1:8000/v1", description="any OpenAI-compatible endpoint, hosted or a vLLM server"
    )
    model: str = Field(min_length=1, description="the model's name at that endpoint")
    api_key_env: str | None = Field(
        None, description="NAME of the environment variable that holds the key; null if none is needed"
    )
    verdict: Literal["logprobs", "text"] = Field(
        "logprobs",
        description="read the verdict from the label token's logprobs (from the text where a reply has none), "
        "or from the text alone",
    )
    prompt: str = Field("pairwise", description="a packaged template's name, or the path of a Jinja2 file")
    language: Literal["en", "zh"] = Field("en", description="language of the packaged template")
    max_tokens: int = Field(16, ge=1, description="longest reply, in tokens")
    temperature: float | None = Field(0.0, ge=0, description="null leaves it to the endpoint")
    concurrency: int = Field(16, ge=1, le=1024, description="calls in flight at most")
    requests_per_minute: float | None = Field(None, gt=0, description="null for no limit")
    timeout_seconds: float = Field(60.0, gt=0, description="for one attempt")
    max_attempts: int = Field(5, ge=1, description="attempts at one call in one run of the job")
    tie_band: float = Field(
        0.05, ge=0, lt=0.5, description="a probability this near to 0.5 (both orders averaged) is a tie"
    )
    only: Literal["unlabelled", "all"] = Field(
        "unlabelled",
        description="unlabelled: comparisons that nobody has labelled; all: every one without this judge's label",
    )

    @field_validator("base_url")
    @classmethod
    def plain_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("give an http:// or https:// address, e.g. http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError(
                "no user, password or query in the address: put the key in api_key_env's variable"
            )
        return url.rstrip("/")

    @property
    def annotator(self) -> str:
        """The name under which this judge's labels stand in the store."""
        return f"judge:{self.model}"
