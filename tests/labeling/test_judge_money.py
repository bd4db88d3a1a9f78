"""Money: exact prices, a cap that is never passed, a dry run that is right, across kills and resumes."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from alignment.demo.stand_in_judge import Faults, Manner, StandInJudge
from labeling.errors import LabelingError
from labeling.judge.calls.prices import PICO, cost_of, dollars, most_tokens, own_price, usual_tokens
from labeling.judge.calls.purse import BudgetSpent, Purse
from labeling.judge.config import JudgeConfig, Price
from labeling.judge.job import run_judge
from labeling.judge.plan import plan_judge
from labeling.schema import JudgeCall
from tests.labeling.judging import CLEAR, config, fill, politeness, rows

PRICE = Price(input=0.15, output=0.6)


def paid(store):
    with store.engine.connect() as connection:
        return connection.execute(select(func.sum(JudgeCall.cost))).scalar_one()


class TestPrices:
    def test_fifteen_cents_a_million_are_exact(self):
        assert own_price(PRICE)(1, 0) == 150_000  # picodollars for one token
        assert own_price(PRICE)(1_000_000, 1_000_000) == Decimal("0.75") * PICO

    @given(st.integers(0, 10**6), st.integers(0, 10**6))
    def test_a_sum_is_the_sum_of_its_parts(self, prompt, reply):
        cost = own_price(PRICE)
        assert cost(prompt, reply) == cost(prompt, 0) + cost(0, reply)

    def test_the_table_knows_hosted_models(self):
        hosted = {"base_url": "https://api.openai.com/v1", "model": "gpt-4o-mini"}
        assert cost_of(JudgeConfig(**hosted))(1_000_000, 0) == Decimal("0.15") * PICO
        assert cost_of(JudgeConfig(**hosted, price=Price(input=1, output=1)))(1_000_000, 0) == PICO
        assert cost_of(JudgeConfig(model="my-own-model")) is None

    @given(st.text(max_size=200))
    def test_a_prompt_never_has_more_tokens_than_bytes(self, text):
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 5}
        prompt, reply = most_tokens(body)
        assert prompt >= max(len(text.encode()), usual_tokens(body))
        assert reply == 5

    def test_in_words(self):
        assert [dollars(round(x * PICO)) for x in (0, 0.00123456, 1234.5)] == [
            "$0.00",
            "$0.00123",
            "$1,234.50",
        ]


class TestPurse:
    def test_a_call_waits_for_what_others_give_back(self):
        async def scene():
            purse = Purse(budget=10)
            await purse.reserve(6)
            second = asyncio.create_task(purse.reserve(6))
            await asyncio.sleep(0)
            assert not second.done()
            await purse.settle(6, 3)
            await second
            await purse.settle(6, 6)
            with pytest.raises(BudgetSpent):
                await purse.reserve(2)
            return purse.spent

        assert asyncio.run(scene()) == 9

    def test_without_a_price_there_is_no_cap_to_keep(self):
        with pytest.raises(LabelingError, match=r"set price\.input"):
            asyncio.run(Purse(budget=10).reserve(None))

    @given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), max_size=40), st.integers(1, 200))
    def test_the_cap_is_never_passed(self, calls, budget):
        async def scene():
            purse = Purse(budget)

            async def call(most, paid):
                await purse.reserve(most)
                assert purse.spent <= budget
                await asyncio.sleep(0)
                await purse.settle(most, min(most, paid))

            await asyncio.gather(*(call(*one) for one in calls), return_exceptions=True)
            return purse.spent

        assert asyncio.run(scene()) <= budget


def test_what_a_run_costs_is_what_its_tokens_cost(sqlite_store):
    fill(sqlite_store, 10)
    with StandInJudge(politeness, manner=CLEAR) as server:
        judge = config(server, price=PRICE)
        plan = plan_judge(sqlite_store, judge)
        report = run_judge(sqlite_store, judge)
    tokens = report.calls
    assert (
        report.cost
        == paid(sqlite_store)
        == 150_000 * tokens.prompt_tokens + 600_000 * tokens.completion_tokens
    )
    assert plan.cost == pytest.approx(report.cost / PICO, rel=0.1)
    assert plan.cost_at_most > report.cost / PICO


def test_a_dry_run_learns_from_what_was_answered(sqlite_store):
    """The stand-in's JSON is longer than a letter; after some answers the plan counts as the endpoint does."""
    fill(sqlite_store, 40)
    with StandInJudge(politeness, manner=CLEAR) as server:
        judge = config(server, price=Price(input=0.1, output=50), verdict="json", budget=0.015, concurrency=1)
        first = run_judge(sqlite_store, judge)
        assert first.stopped_by_budget
        plan = plan_judge(sqlite_store, judge)
        second = run_judge(sqlite_store, judge.model_copy(update={"budget": None}))
    assert plan.cost == pytest.approx(second.cost / PICO, rel=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_the_budget_is_never_passed_and_no_answer_is_lost(sqlite_store, seed):
    fill(sqlite_store, 60)
    faults = Faults(server_error=0.1, cut=0.1, rate_limited=0.05, retry_after=0.01)
    with StandInJudge(politeness, faults=faults, seed=seed) as server:
        judge = config(server, price=PRICE, budget=0.004)
        cap = round(0.004 * PICO)
        report = run_judge(sqlite_store, judge)
        assert report.stopped_by_budget
        assert 0.8 * cap < paid(sqlite_store) <= cap
        # a second run of the same budget sends nothing more, and still labels what is answered
        sent = sum(server.log.attempts.values())
        again = run_judge(sqlite_store, judge)
        assert again.calls.attempts <= 1
        assert paid(sqlite_store) <= cap
        assert sum(server.log.attempts.values()) - sent <= 1
        done = run_judge(sqlite_store, config(server, price=PRICE, max_attempts=9))
    assert report.labels + again.labels + done.labels == 60 - done.outcomes["unparsed"]
    answered = [call for call in rows(sqlite_store, JudgeCall) if call.state == "answered"]
    assert len({call.key for call in answered}) == len(answered) == 120


def test_a_lost_reply_counts_at_its_worst(sqlite_store):
    fill(sqlite_store, 1)
    with StandInJudge(politeness, faults=Faults(cut=1.0)) as server:
        run_judge(sqlite_store, config(server, price=PRICE, max_attempts=1))
    for call in rows(sqlite_store, JudgeCall):
        assert call.state == "uncertain"
        assert call.cost == own_price(PRICE)(*most_tokens(call.request))


def test_a_budget_without_a_price_is_refused_before_anything_is_sent(sqlite_store):
    fill(sqlite_store, 1)
    with StandInJudge(politeness, manner=Manner()) as server:
        with pytest.raises(LabelingError, match=r"set price\.input and price\.output"):
            run_judge(sqlite_store, config(server, budget=1.0))
        assert not server.log.attempts
    assert rows(sqlite_store, JudgeCall) == []
