"""What a judge job is told. The key itself is never in a config: only the name of its environment variable."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(min_length=1, max_length=64)]


def plain_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("give an http:// or https:// address, e.g. http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query:
        raise ValueError("no user, password or query in the address: put the key in api_key_env's variable")
    return url.rstrip("/")


Url = Annotated[str, AfterValidator(plain_url)]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


class Price(Part):
    """What an endpoint asks, in US dollars for a million tokens: 0.15 is 15 cents."""

    input: float = Field(ge=0, description="for a million tokens of prompts")
    output: float = Field(ge=0, description="for a million tokens of replies")


class Routing(Part):
    """Which comparisons people are asked about first, whatever the judge said of them."""

    below: float = Field(
        0.6, ge=0.5, le=1, description="those of which the judge is less sure than this; 0.5 sends none"
    )
    order_inconsistent: bool = Field(True, description="those whose winner changed with the order")
    failed: bool = Field(True, description="those without a verdict")
    split: bool = Field(True, description="those on which the judges of a panel name different winners")
    priority: float = Field(1.0, description="the least priority that they get in the people's queue")


class Member(Part):
    """One more judge of a panel. What is not given is as for the first."""

    model: str = Field(min_length=1, description="the model's name at its endpoint")
    base_url: Url | None = Field(None, description="its endpoint")
    api_key_env: str | None = Field(
        None, description="NAME of the variable with its key; keys are not shared"
    )
    weight: float = Field(1.0, gt=0, description="how much its verdict counts")
    verdict: Literal["logprobs", "json", "text"] | None = Field(None, description="how its verdict is read")
    price: Price | None = Field(None, description="if the price table does not know it")
    requests_per_minute: float | None = Field(None, gt=0, description="its endpoint's limit")
    tokens_per_minute: float | None = Field(None, gt=0, description="its endpoint's limit")


class JudgeConfig(Part):
    """A judge, or a panel of them: endpoints, models, how they are asked and how their answers are read."""

    base_url: Url = Field(
        "http://127.0.0.1:8000/v1", description="any OpenAI-compatible endpoint, hosted or a vLLM server"
    )
    model: str = Field(min_length=1, description="the model's name at that endpoint")
    api_key_env: str | None = Field(
        None, description="NAME of the environment variable that holds the key; null if none is needed"
    )
    name: str | None = Field(
        None, min_length=1, max_length=200,
        description="labels stand in the store under judge:NAME; null: the model's name, or panel",
    )  # fmt: skip

    # what is asked
    mode: Literal["pairwise", "pointwise", "list"] = Field(
        "pairwise",
        description="pairwise: which of two is better, asked in both orders; pointwise: each answer gets 1 to 10 "
        "for each aspect; list: all answers are ranked, asked in both orders",
    )
    verdict: Literal["logprobs", "json", "text"] = Field(
        "logprobs",
        description="read the verdict from the label token's logprobs (from the text where a reply has none), "
        "from JSON by a schema, or from the text alone; only pairwise has logprobs, other modes read JSON instead",
    )
    samples: int = Field(
        1, ge=1, le=64,
        description="replies drawn for each question; the verdict is their vote share (for models without logprobs)",
    )  # fmt: skip
    reasoning: bool = Field(False, description="the judge reasons before it says its verdict")
    prompt: str | None = Field(
        None, description="a packaged template's name, or the path of a Jinja2 file; null: the mode's own"
    )
    language: Literal["en", "zh"] = Field("en", description="language of the packaged template")
    labels: tuple[Name, Name, Name] = Field(
        ("A", "B", "C"),
        description="what a pairwise reply calls the first answer, the second and a tie; for templates of your own",
    )
    aspects: list[Name] = Field(
        ["overall"], min_length=1, max_length=12, description="what pointwise rates, each from 1 to 10"
    )
    rubric: str | None = Field(None, description="what to judge by, in place of the template's own points")
    constitution: list[str] = Field([], description="principles, of which some are drawn for each comparison")
    principles: int = Field(1, ge=1, description="how many of them are drawn; the draw is recorded")
    reference: bool = Field(False, description="show a reference answer, where the store holds one")
    seed: int = Field(0, description="of the draws of principles")

    # the request
    max_tokens: int | None = Field(
        None, ge=1, description="longest reply, in tokens; null: enough for what is asked"
    )
    temperature: float | None = Field(
        None, ge=0, description="null: 0 for one sample, the endpoint's own for several"
    )
    parameters: dict[str, Any] = Field(
        {},
        description="further fields of the request, e.g. {reasoning_effort: low}; null takes one out: "
        "{max_tokens: null, max_completion_tokens: 2000}",
    )

    # limits and money
    concurrency: int = Field(
        64, ge=1, le=1024, description="calls in flight at most; fewer where the endpoint pushes back"
    )
    requests_per_minute: float | None = Field(None, gt=0, description="null for no limit")
    tokens_per_minute: float | None = Field(
        None, gt=0, description="of prompts and replies; null for no limit"
    )
    timeout_seconds: float = Field(60.0, gt=0, description="for one attempt")
    max_attempts: int = Field(5, ge=1, description="attempts at one call in one run of the job")
    price: Price | None = Field(None, description="null: by the table of genai-prices")
    budget: float | None = Field(
        None, gt=0, description="US dollars that this judge may cost in this store, all runs together"
    )
    batch_size: int = Field(5000, ge=1, le=20_000, description="calls in one batch of --batch")
    poll_seconds: float = Field(30.0, gt=0, description="between two looks at a batch")

    # what becomes of the answers
    tie_band: float = Field(
        0.05, ge=0, lt=0.5, description="a probability this near to 0.5 (both orders averaged) is a tie"
    )
    only: Literal["unlabelled", "all"] = Field(
        "unlabelled",
        description="unlabelled: comparisons that nobody has labelled; all: every one without this judge's label",
    )
    judge_own: bool = Field(
        False, description="also judge answers that the judge's own model gave, which it tends to prefer"
    )
    route: Routing = Field(Routing(), description="what goes to people")
    weight: float = Field(1.0, gt=0, description="of this judge in its panel")
    panel: list[Member] = Field([], description="further judges, asked the same")
    panel_rule: Literal["mean", "majority"] = Field(
        "mean", description="a panel's verdict: the weighted mean of its probabilities, or of its votes"
    )

    @model_validator(mode="after")
    def fits_together(self) -> Self:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                "several samples at temperature 0 are one sample: raise temperature, or leave it out"
            )
        if len({*self.labels}) != 3:
            raise ValueError("labels must differ")
        models = [(self.base_url, self.model)] + [(m.base_url or self.base_url, m.model) for m in self.panel]
        if len({*models}) != len(models):
            raise ValueError("a panel has each model once")
        return self

    @property
    def annotator(self) -> str:
        """The name under which this judge's labels stand in the store."""
        return f"judge:{self.name or ('panel' if self.panel else self.model)}"

    @property
    def form(self) -> Literal["logprobs", "json", "text"]:
        """How a reply gives its verdict; marks and rankings have no one token whose logprobs would say it."""
        return "json" if self.mode != "pairwise" and self.verdict == "logprobs" else self.verdict

    def members(self) -> list[JudgeConfig]:
        """Each judge of the panel as a config of its own; the config itself if there is no panel."""
        if not self.panel:
            return [self]
        models = [self.model, *(member.model for member in self.panel)]

        def alone(model: str, base_url: str) -> dict[str, Any]:
            # the same model behind two endpoints is two judges
            name = f"{model} at {base_url}" if models.count(model) > 1 else None
            return {"panel": [], "name": name, "model": model, "base_url": base_url}

        others = [
            self.model_copy(
                update=alone(member.model, member.base_url or self.base_url)
                | {"api_key_env": member.api_key_env, "price": member.price, "weight": member.weight}
                | {"requests_per_minute": member.requests_per_minute}
                | {"tokens_per_minute": member.tokens_per_minute}
                | {"verdict": member.verdict or self.verdict}
            )
            for member in self.panel
        ]
        return [self.model_copy(update=alone(self.model, self.base_url)), *others]
