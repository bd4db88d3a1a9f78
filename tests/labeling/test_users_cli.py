"""`align label users`: accounts, links and tokens from the shell; passwords never as arguments."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import sys

import pytest

from alignment.cli import run
from labeling.people.accounts import accept_invitation, invited, people
from labeling.people.audit import entries
from labeling.people.sessions import sign_in
from labeling.people.tokens import person_of_token
from labeling.store import Store

PASSWORD = "correct horse"
HERE = "192.0.2.1"


@pytest.fixture
def align(tmp_path, monkeypatch, capsys):
    """Runs `align label users ...` in a fresh folder; gives its exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = run(["label", "users", *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def opened(tmp_path):
    return lambda: Store.open(str(tmp_path / "align.db"), create=False)


def test_add_prints_a_link_that_works(align, opened):
    code, out, err = align("add", "ann", "--role", "lead")
    assert code == 0
    assert re.fullmatch(r"/invitation/[\w-]{43}\n", out)
    assert "ann is here, as lead" in err
    ann = accept_invitation(opened(), out.strip().removeprefix("/invitation/"), PASSWORD)
    assert (ann.name, ann.role) == ("ann", "lead")
    code, out, _ = align("add", "bob", "--json")
    bob = json.loads(out)
    assert (code, bob["name"], bob["role"], bob["state"]) == (0, "bob", "annotator", "invited")
    assert invited(opened(), bob["link"].removeprefix("/invitation/")).id == bob["id"]


def test_add_reads_a_password_from_standard_input(align, opened):
    code, out, err = align("add", "ann", "--password-stdin", stdin=PASSWORD + "\n")
    assert (code, out) == (0, "")
    assert PASSWORD not in err
    assert sign_in(opened(), "ann", PASSWORD, HERE)


def test_add_asks_for_a_password_only_at_a_terminal(align, opened):
    code, _, err = align("add", "ann", "--password")
    assert (code, "no terminal" in err) == (2, True)
    code, shown = at_a_terminal("add ann --password", [PASSWORD, PASSWORD])
    assert code == 0, shown
    assert PASSWORD not in shown
    assert sign_in(opened(), "ann", PASSWORD, HERE)
    code, shown = at_a_terminal("add bob --password", [PASSWORD, "something else"])
    assert (code, "differ" in shown) == (2, True)
    assert [one.name for one in people(opened())] == ["ann"]


def at_a_terminal(command: str, typed: list[str]) -> tuple[int, str]:
    """Exit code and screen of `align label users ...` where `typed` answers its questions one by one."""
    start = ["-c", "from alignment.cli import main; main()", "label", "users"]
    child, screen = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, *start, *command.split()])
    shown, answers = b"", iter([*typed, ""])
    while True:
        try:
            shown += os.read(screen, 1024)
        except OSError:  # the command has ended
            break
        if shown.endswith(b": "):
            os.write(screen, next(answers).encode() + b"\n")
    os.close(screen)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown.decode()


def test_a_life_from_the_shell(align, opened):
    align("add", "root", "--role", "admin", "--password-stdin", stdin=PASSWORD)
    first = align("invite", "ann")[1]
    second = align("invite", "Ann")[1]
    assert first != second
    accept_invitation(opened(), second.strip().removeprefix("/invitation/"), PASSWORD)
    assert "ann is lead" in align("role", "ann", "lead")[2]
    assert "ann is deactivated" in align("deactivate", "ann")[2]
    assert json.loads(align("list", "--json")[1]) == {
        "people": [
            {"id": 2, "name": "ann", "role": "lead", "state": "deactivated"},
            {"id": 1, "name": "root", "role": "admin", "state": "active"},
        ]
    }
    assert json.loads(align("activate", "ann", "--json")[1])["state"] == "active"
    code, link, err = align("reset", "ann")
    assert (code, "ann has no password now" in err) == (0, True)
    assert json.loads(align("list", "--json")[1])["people"][0]["state"] == "invited"
    accept_invitation(opened(), link.strip().removeprefix("/invitation/"), "battery staple")
    assert re.search(r"^ann +lead +active$", align("list")[1], re.MULTILINE)
    assert {one.actor for one in entries(opened()) if one.action != "person.join"} == {"shell"}


def test_tokens(align, opened):
    align("add", "ann", "--password-stdin", stdin=PASSWORD)
    code, out, err = align("token", "add", "ann", "--for", "nightly export")
    token = out.strip()
    assert code == 0
    assert token not in err
    assert person_of_token(opened(), token).name == "ann"
    assert json.loads(align("token", "add", "ann", "--json")[1])["token"].startswith("align_")
    listed = json.loads(align("token", "list", "ann", "--json")[1])["tokens"]
    assert [(one["for"], one["last_used_at"] is None) for one in listed] == [
        ("nightly export", False),
        ("scripts", True),
    ]
    assert "never used" in align("token", "list", "ann")[1]
    assert align("token", "revoke", str(listed[0]["id"]))[0] == 0
    assert person_of_token(opened(), token) is None
    assert [one["id"] for one in json.loads(align("token", "list", "ann", "--json")[1])["tokens"]] == [
        listed[1]["id"]
    ]


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        ("role nobody lead", 1, "there is nobody called 'nobody'"),
        ("add root", 1, "there is somebody called 'root' already"),
        ("add scripted-x", 1, "does not begin with 'scripted-'"),
        ("invite root --role admin", 1, "root has an account"),
        ("deactivate root", 1, "root is the last active admin"),
        ("role root annotator", 1, "root is the last active admin"),
        ("add eve --password-stdin", 1, "a password has 10 to 256 characters"),
        ("token revoke 7", 1, "there is no token with the id 7"),
        ("list --store none.db", 1, "no store at none.db"),
        ("role root boss", 2, "'boss'"),
        ("add eve --password --password-stdin", 2, "not both"),
        ("add", 2, "NAME"),
        ("add eve hunter2hunter2", 2, "hunter2hunter2"),
    ],
)
def test_what_cannot_be_is_one_line(align, opened, words, code, line):
    align("add", "root", "--role", "admin", "--password-stdin", stdin=PASSWORD)
    came, out, err = align(*words.split(), stdin="short\n")
    assert (came, out) == (code, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert line in err
    assert [(one.name, one.role) for one in people(opened())] == [("root", "admin")]


def test_every_command_shows_an_example(align):
    commands = ["list", "add", "invite", "role", "deactivate", "activate", "reset"]
    for words in [[one] for one in commands] + [["token", one] for one in ("add", "list", "revoke")]:
        code, out, _ = align(*words, "--help")
        assert code == 0
        assert f"Example: align label users {' '.join(words)}" in " ".join(out.split())
