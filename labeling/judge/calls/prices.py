"""What a call costs. Money is counted in whole picodollars (1e-12 US dollars), so that sums are exact."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from labeling.judge.calls.client import is_loopback
from labeling.judge.config import JudgeConfig, Price

PICO = 10**12
MESSAGE_OVERHEAD = 64  # tokens that a chat template may put around a message, at the most
USUAL_OVERHEAD = 8  # and usually does
Cost = Callable[[int, int], int]  # (prompt tokens, reply tokens) -> picodollars


def cost_of(config: JudgeConfig, *, batch: bool = False) -> Cost | None:
    """The price of calls to this judge: the config's own, else the table's; None if neither knows it."""
    if config.price:
        return own_price(config.price)
    if is_loopback(config.base_url):
        return None  # nobody's list has a server of one's own
    return listed_price(config.base_url, config.model, batch=batch)


def own_price(price: Price) -> Cost:
    # dollars for a million tokens are millionths of a dollar for one: 0.15 gives 150,000 picodollars exactly
    of_input, of_output = (Decimal(str(dollars)) * 10**6 for dollars in (price.input, price.output))

    def cost(prompt: int, reply: int) -> int:
        return math.ceil(of_input * prompt + of_output * reply)

    return cost


def listed_price(base_url: str, model: str, *, batch: bool) -> Cost | None:
    """By the table of genai-prices, as of the moment of asking; None for what is not in it."""
    from genai_prices import Usage, calc_price

    at = datetime.now(UTC)  # one moment for the whole job: some prices depend on the hour
    context = {"service_tier": "batch"} if batch else None

    def cost(prompt: int, reply: int) -> int:
        usage = Usage(input_tokens=prompt, output_tokens=reply)
        found = calc_price(
            usage, model, provider_api_url=base_url, genai_request_timestamp=at, price_context=context
        )
        return math.ceil(found.total_price * PICO)

    try:
        cost(1, 1)
    except LookupError:
        return None
    return cost


def most_tokens(body: dict[str, Any]) -> tuple[int, int | None]:
    """No more than this can a request use: (prompt tokens, reply tokens, None if nothing bounds them).

    A token holds a byte at the least.
    """
    texts = [message["content"] for message in body["messages"]]
    prompt = sum(len(text.encode("utf-8", "surrogatepass")) + MESSAGE_OVERHEAD for text in texts)
    limits = [
        body[name] for name in ("max_tokens", "max_completion_tokens") if isinstance(body.get(name), int)
    ]
    return prompt + len(str(body.get("response_format", ""))), max(limits, default=None)


def usual_tokens(body: dict[str, Any]) -> int:
    """About how many tokens a prompt has: one to four characters of Latin script, two to three of Chinese."""
    text = "".join(message["content"] for message in body["messages"])
    wide = (
        len(text.encode("utf-8", "surrogatepass")) - len(text)
    ) // 2  # Chinese takes three bytes a character
    return round(wide / 1.5 + max(0, len(text) - wide) / 4) + USUAL_OVERHEAD


def dollars(pico: int) -> str:
    """For people: $1.25, $0.0034."""
    amount = pico / PICO
    return f"${amount:,.2f}" if amount >= 1 or not amount else f"${amount:.3g}"
