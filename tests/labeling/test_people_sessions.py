"""Signing in: the same answer for every wrong word, throttling, sessions and tokens that end when they should."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from statistics import median

import pytest
from sqlalchemy import func, select, update

from labeling.errors import LabelingError
from labeling.people import secret, sessions
from labeling.people.accounts import (
    accept_invitation,
    change_password,
    create_account,
    deactivate,
    reset_password,
)
from labeling.people.sessions import SignInRefused, open_session, person_of_session, sign_in, sign_out
from labeling.people.tables import ApiToken, LoginAttempt, WebSession
from labeling.people.throttle import MOST_FAILURES, begin_attempt, end_attempt, place_of
from labeling.people.tokens import make_token, person_of_token, revoke_token, tokens
from labeling.schema import as_utc, now

PASSWORD = "correct horse"
HERE, THERE = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def ann(store):
    return create_account(store, "ann", password=PASSWORD, by=None)


def refused(store, name, password, address=HERE):
    with pytest.raises(SignInRefused) as error:
        sign_in(store, name, password, address)
    return error.value


def fail(store, name, address, times=MOST_FAILURES):
    """Failures as `sign_in` records them, without the hashing."""
    for _ in range(times):
        attempt = begin_attempt(store, name, address)
        with store.begin() as session:
            end_attempt(session, attempt, ok=False)


def shift(store, table, column, by):
    with store.begin() as session:
        for row in session.scalars(select(table)):
            setattr(row, column, as_utc(getattr(row, column)) + by)


def test_every_wrong_word_gets_the_same_answer(store, ann):
    create_account(store, "invited", by=None)
    gone = create_account(store, "gone", password=PASSWORD, by=None)
    deactivate(store, gone.id, by=None)
    answers = {
        str(refused(store, name, password, f"192.0.2.{number}"))
        for number, (name, password) in enumerate(
            [
                ("ann", "wrong password"),
                ("ann", ""),
                ("ann", PASSWORD + " "),
                ("ann", PASSWORD.upper()),
                ("ann", "x" * 1_000_000),
                ("ann", "\udcff\x00" * 10),
                ("nobody", PASSWORD),
                ("invited", PASSWORD),
                ("invited", ""),
                ("gone", PASSWORD),
                ("a\x00nn", PASSWORD),
                ("\udcff", PASSWORD),
                ("", ""),
                ("ann' or '1'='1", PASSWORD),
                ("x" * 100_000, PASSWORD),
            ]
        )
    }
    assert answers == {"the name or the password is wrong"}
    assert person_of_session(store, sign_in(store, "ann", PASSWORD, HERE)) == ann


def test_an_unknown_name_takes_as_long_as_a_wrong_password(sqlite_store, monkeypatch):
    create_account(sqlite_store, "ann", password=PASSWORD, by=None)
    monkeypatch.setattr("labeling.people.throttle.MOST_FAILURES", 1000)
    taken = {"ann": [], "nobody": []}
    for _ in range(7):
        for name, times in taken.items():
            began = time.perf_counter()
            refused(sqlite_store, name, "wrong password")
            times.append(time.perf_counter() - began)
    known, unknown = (median(times) for times in taken.values())
    assert 1 / 3 < unknown / known < 3  # without a hash to check it is a tenth


def test_passwords(sqlite_store):
    stored = secret.hash_password("пароль密码пароль")
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert secret.is_password("пароль密码пароль", stored)
    assert secret.hash_password("пароль密码пароль") != stored  # salted
    assert secret.is_password("ｃｏｒｒｅｃｔ　horse", secret.hash_password(PASSWORD))  # full-width keys
    longest = secret.hash_password("x" * 256)
    assert secret.is_password("x" * 256, longest)
    assert not secret.is_password("x" * 257, longest)
    decomposed = "e\u0301" * 200  # 400 characters as typed, 200 as counted
    assert secret.is_password(decomposed, secret.hash_password(decomposed))
    for bad in ("", "x" * 9, "x" * 257):
        with pytest.raises(LabelingError, match=r"^a password has 10 to 256 characters$"):
            secret.hash_password(bad)


def test_a_name_is_throttled_whatever_the_address_and_the_password(store, ann):
    for number in range(MOST_FAILURES):
        refused(store, ["ann", "ANN"][number % 2], "wrong password", f"192.0.2.{number}")
    error = refused(store, "ann", PASSWORD, "198.51.100.7")
    assert str(error) == "too many failed attempts: try again in 15 minutes"
    assert 14 * 60 < error.wait <= 15 * 60
    create_account(store, "bob", password=PASSWORD, by=None)
    assert sign_in(store, "bob", PASSWORD, HERE)
    shift(store, LoginAttempt, "at", timedelta(minutes=-14, seconds=-30))
    assert str(refused(store, "ann", PASSWORD)) == "too many failed attempts: try again in 1 minute"
    shift(store, LoginAttempt, "at", timedelta(minutes=-1))
    assert sign_in(store, "ann", PASSWORD, HERE)


def test_an_unknown_name_is_throttled_alike(store):
    fail(store, "nobody", HERE)
    assert "too many" in str(refused(store, "nobody", PASSWORD, THERE))


def test_an_address_is_throttled_whatever_the_name(store, ann):
    for number in range(MOST_FAILURES):
        fail(store, f"name {number}", HERE, times=1)
    assert "too many" in str(refused(store, "ann", PASSWORD, HERE))
    assert sign_in(store, "ann", PASSWORD, THERE)
    assert "too many" in str(refused(store, "ann", PASSWORD, HERE))  # a success clears names only


def test_success_clears_the_names_failures(store, ann):
    fail(store, "ann", HERE, MOST_FAILURES - 1)
    assert sign_in(store, "ann", PASSWORD, THERE)
    fail(store, "ann", THERE, MOST_FAILURES - 1)
    assert sign_in(store, "ann", PASSWORD, "192.0.2.3")


def test_a_link_clears_the_names_failures(store, ann):
    fail(store, "ann", HERE)
    accept_invitation(store, reset_password(store, ann.id, by=None), "battery staple")
    assert sign_in(store, "ann", "battery staple", THERE)


def test_guessing_the_current_password_is_throttled_too(store, ann):
    fail(store, "ann", HERE, MOST_FAILURES - 1)
    with pytest.raises(SignInRefused, match="current password is wrong"):
        change_password(store, ann.id, "wrong password", "battery staple", THERE)
    with pytest.raises(SignInRefused, match="too many"):
        change_password(store, ann.id, PASSWORD, "battery staple", THERE)


def test_many_guesses_at_once_get_no_further_than_one_after_the_other(store, ann, monkeypatch):
    checked = []
    check = sessions.is_password
    monkeypatch.setattr(sessions, "is_password", lambda *words: checked.append(1) or check(*words))
    with ThreadPoolExecutor(8) as pool:
        guesses = [
            pool.submit(sign_in, store, "ann", f"wrong password {i}", f"10.0.{i}.1") for i in range(24)
        ]
    assert len(checked) == MOST_FAILURES
    said = [str(guess.exception()) for guess in guesses]
    assert sum("too many" in one for one in said) == 24 - MOST_FAILURES


def test_a_whole_office_signs_in_at_once(store, ann):
    begun = [begin_attempt(store, f"person {number}", HERE) for number in range(3 * MOST_FAILURES)]
    assert len(begun) == 30
    assert sign_in(store, "ann", PASSWORD, HERE)


def test_throttling_holds_in_another_process(store, store_url, ann):
    fail(store, "ann", HERE)
    code = (
        "import sys; from labeling.store import Store; from labeling.people.sessions import sign_in\n"
        "try: sign_in(Store.open(sys.argv[1]), 'ann', sys.argv[2], '192.0.2.9')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    command = [sys.executable, "-c", code, store_url, PASSWORD]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("SignInRefused too many"), done.stderr


def test_old_attempts_are_pruned(store):
    fail(store, "ann", HERE)
    shift(store, LoginAttempt, "at", timedelta(days=-1, minutes=-1))
    fail(store, "ann", HERE, times=1)
    with store.engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(LoginAttempt)) == 1


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "unknown"),
        ("\x00\udcff" * 100, "unknown"),
        ("", "unknown"),
    ],
)
def test_what_counts_as_one_address(address, place):
    assert place_of(address) == place


def test_a_session_ends_when_told(store, ann):
    one, other = sign_in(store, "ann", PASSWORD, HERE), open_session(store, ann.id)
    assert one != other
    sign_out(store, one)
    assert person_of_session(store, one) is None
    assert person_of_session(store, other) == ann
    for nonsense in ("", "x", other.upper(), other + "=", "\x00", "\udcff", "x" * 100_000):
        assert person_of_session(store, nonsense) is None
    sign_out(store, "unknown")
    assert person_of_session(store, other) == ann


def expiry(store):
    with store.engine.connect() as connection:
        return as_utc(connection.scalars(select(WebSession.expires_at)).one())


def test_a_session_lives_fourteen_days_since_it_was_used(store, ann):
    token = open_session(store, ann.id)
    made = expiry(store)
    assert abs(made - now() - timedelta(days=14)) < timedelta(minutes=1)
    shift(store, WebSession, "expires_at", timedelta(minutes=-59))
    assert person_of_session(store, token) == ann
    assert expiry(store) == made - timedelta(minutes=59)  # within the hour reading does not write
    shift(store, WebSession, "expires_at", timedelta(minutes=-2))
    assert person_of_session(store, token) == ann
    assert expiry(store) >= made
    shift(store, WebSession, "expires_at", timedelta(days=-14, minutes=-1))
    assert person_of_session(store, token) is None
    open_session(store, ann.id)
    assert expiry(store) > now()  # the dead one is gone: there is one


def test_a_password_reset_while_it_is_checked_opens_no_session(store, ann, monkeypatch):
    check = sessions.is_password

    def slow_check(password, stored):
        reset_password(store, ann.id, by=None)
        return check(password, stored)

    monkeypatch.setattr(sessions, "is_password", slow_check)
    assert "wrong" in str(refused(store, "ann", PASSWORD))
    with store.engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(WebSession)) == 0


def test_tokens(store, ann):
    first, second = (make_token(store, ann.id, name, by=ann.id) for name in ("export", "import"))
    assert first.startswith("align_")
    listed = tokens(store, ann.id)
    assert [(one.name, one.person_id, one.last_used_at) for one in listed] == [
        ("export", ann.id, None),
        ("import", ann.id, None),
    ]
    assert person_of_token(store, first) == ann
    used = tokens(store, ann.id)[0].last_used_at
    assert abs(used - now()) < timedelta(minutes=1)
    assert person_of_token(store, first) == ann
    assert tokens(store, ann.id)[0].last_used_at == used  # noted once an hour
    with store.begin() as session:
        session.execute(update(ApiToken).values(last_used_at=now() - timedelta(minutes=61)))
    person_of_token(store, first)
    assert tokens(store, ann.id)[0].last_used_at >= used
    revoke_token(store, listed[0].id, by=ann.id)
    assert person_of_token(store, first) is None
    assert person_of_token(store, second) == ann
    assert [one.name for one in tokens(store, ann.id)] == ["import"]
    with pytest.raises(LabelingError, match="no token with the id"):
        revoke_token(store, listed[0].id, by=ann.id)
    for nonsense in ("", "align_", first.removeprefix("align_"), "\x00", open_session(store, ann.id)):
        assert person_of_token(store, nonsense) is None
    for bad in ("", "x" * 65, "a\x00"):
        with pytest.raises(LabelingError, match="1 to 64 characters"):
            make_token(store, ann.id, bad, by=ann.id)


def test_a_session_token_is_no_api_token_and_the_other_way_round(store, ann):
    assert person_of_session(store, make_token(store, ann.id, "t", by=None)) is None
    assert person_of_token(store, open_session(store, ann.id)) is None
