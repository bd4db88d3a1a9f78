"""`align label users`: the people who label. A password is never an argument, where other processes could read it."""

from __future__ import annotations

import sys
from enum import StrEnum
from getpass import getpass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignment.cli import options

if TYPE_CHECKING:
    from labeling.people.accounts import Person

app = typer.Typer(help="The people who label: accounts, roles, links, tokens.", no_args_is_help=True)
token_app = typer.Typer(help="Tokens with which a person's scripts use the HTTP API.", no_args_is_help=True)
app.add_typer(token_app, name="token")


class Role(StrEnum):
    annotator = "annotator"
    lead = "lead"
    admin = "admin"


Name = Annotated[str, typer.Argument(metavar="NAME", help="The person's name.")]
RoleOption = Annotated[Role, typer.Option("--role", help="What they may do.")]


@app.command("list")
def list_(store: options.Store = options.DEFAULT_STORE, as_json: options.Json = False) -> None:
    """Everybody with an account.

    Example: [bold]align label users list --store align.db[/bold]
    """
    from alignment.console import note, output, print_json
    from labeling.people import accounts
    from labeling.store import Store

    everybody = accounts.people(Store.open(store, create=False))
    if as_json:
        print_json({"people": [described(person) for person in everybody]})
        return
    lines = [f"{person.name:<32} {person.role:<10} {person.state}" for person in everybody]
    output.print("\n".join(lines), markup=False, soft_wrap=True)
    if not everybody:
        note("nobody yet; `align label users add NAME --role admin` makes the first")


@app.command()
def add(
    name: Name,
    role: RoleOption = Role.annotator,
    password: Annotated[bool, typer.Option("--password", help="Ask for a password here, unseen.")] = False,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read a password from standard input.")
    ] = False,
    store: options.Store = options.DEFAULT_STORE,
    as_json: options.Json = False,
) -> None:
    """Make an account, and print the path of a one-time link by which its owner chooses a password.

    Example: [bold]align label users add ann --role lead[/bold]
    """
    from labeling.people import accounts
    from labeling.store import Store

    if password and password_stdin:
        raise typer.BadParameter("give --password or --password-stdin, not both")
    chosen = read_password(hidden=password) if password or password_stdin else None
    opened = Store.open(store)
    person = accounts.create_account(opened, name, role.value, password=chosen, by=None)
    link = None if chosen else accounts.invite(opened, person.name, role.value, by=None)
    show_person(person, f"{person.name} is here, as {person.role}", as_json, link)


@app.command()
def invite(
    name: Name,
    role: RoleOption = Role.annotator,
    store: options.Store = options.DEFAULT_STORE,
    as_json: options.Json = False,
) -> None:
    """Print a one-time link for somebody new, or a new one for somebody who has not joined yet.

    Example: [bold]align label users invite ann[/bold]
    """
    from labeling.people import accounts
    from labeling.store import Store

    opened = Store.open(store)
    link = accounts.invite(opened, name, role.value, by=None)
    person = accounts.person_named(opened, name)
    show_person(person, f"{person.name} is invited, as {person.role}", as_json, link)


@app.command()
def role(
    name: Name,
    role: Annotated[Role, typer.Argument(metavar="ROLE", help="annotator, lead or admin.")],
    store: options.Store = options.DEFAULT_STORE,
    as_json: options.Json = False,
) -> None:
    """Give somebody another role; they sign in anew, and their tokens and links end.

    Example: [bold]align label users role ann lead[/bold]
    """
    from labeling.people import accounts
    from labeling.store import Store

    opened = Store.open(store, create=False)
    person = accounts.set_role(opened, accounts.person_named(opened, name).id, role.value, by=None)
    show_person(person, f"{person.name} is {person.role}", as_json)


@app.command()
def deactivate(
    name: Name, store: options.Store = options.DEFAULT_STORE, as_json: options.Json = False
) -> None:
    """Shut somebody out at once; their labels stay.

    Example: [bold]align label users deactivate ann[/bold]
    """
    from labeling.people import accounts
    from labeling.store import Store

    opened = Store.open(store, create=False)
    person = accounts.deactivate(opened, accounts.person_named(opened, name).id, by=None)
    show_person(person, f"{person.name} is deactivated", as_json)


@app.command()
def activate(name: Name, store: options.Store = options.DEFAULT_STORE, as_json: options.Json = False) -> None:
    """Let somebody in again, with the password they had.

    Example: [bold]align label users activate ann[/bold]
    """
    from labeling.people import accounts
    from labeling.store import Store

    opened = Store.open(store, create=False)
    person = accounts.activate(opened, accounts.person_named(opened, name).id, by=None)
    show_person(person, f"{person.name} is active", as_json)


@app.command()
def reset(name: Name, store: options.Store = options.DEFAULT_STORE, as_json: options.Json = False) -> None:
    """End somebody's password and sessions, and print a one-time link to choose a new password.

    Example: [bold]align label users reset ann[/bold]
    """
    from labeling.people import accounts
    from labeling.store import Store

    opened = Store.open(store, create=False)
    person = accounts.person_named(opened, name)
    link = accounts.reset_password(opened, person.id, by=None)
    show_person(accounts.person_named(opened, name), f"{person.name} has no password now", as_json, link)


@token_app.command("add")
def add_token(
    name: Name,
    purpose: Annotated[str, typer.Option("--for", help="What it is for.")] = "scripts",
    store: options.Store = options.DEFAULT_STORE,
    as_json: options.Json = False,
) -> None:
    """Make a token and print it, this once.

    Example: [bold]align label users token add ann --for "nightly export"[/bold]
    """
    from alignment.console import note, output, print_json
    from labeling.people.accounts import person_named
    from labeling.people.tokens import make_token
    from labeling.store import Store

    opened = Store.open(store, create=False)
    person = person_named(opened, name)
    token = make_token(opened, person.id, purpose, by=None)
    if as_json:
        print_json({"name": person.name, "for": purpose, "token": token})
        return
    note(f"scripts act for {person.name} with this token; it is not shown again")
    output.print(token, markup=False, soft_wrap=True)


@token_app.command("list")
def list_tokens(
    name: Name, store: options.Store = options.DEFAULT_STORE, as_json: options.Json = False
) -> None:
    """Somebody's tokens: their ids, what they are for and when they were last used.

    Example: [bold]align label users token list ann[/bold]
    """
    from alignment.console import note, output, print_json
    from labeling.people.accounts import person_named
    from labeling.people.tokens import tokens
    from labeling.store import Store

    opened = Store.open(store, create=False)
    rows = [
        {
            "id": token.id,
            "for": token.name,
            "created_at": token.created_at.isoformat(timespec="seconds"),
            "last_used_at": token.last_used_at and token.last_used_at.isoformat(timespec="hours"),
        }
        for token in tokens(opened, person_named(opened, name).id)
    ]
    if as_json:
        print_json({"tokens": rows})
        return
    lines = [f"{row['id']:>6}  {row['for']:<32} {row['last_used_at'] or 'never used'}" for row in rows]
    output.print("\n".join(lines), markup=False, soft_wrap=True)
    if not rows:
        note(f"no tokens; `align label users token add {name}` makes one")


@token_app.command("revoke")
def revoke(
    token: Annotated[int, typer.Argument(metavar="ID", help="As `token list` shows it.")],
    store: options.Store = options.DEFAULT_STORE,
) -> None:
    """End a token at once.

    Example: [bold]align label users token revoke 3[/bold]
    """
    from alignment.console import note
    from labeling.people.tokens import revoke_token
    from labeling.store import Store

    revoke_token(Store.open(store, create=False), token, by=None)
    note(f"token {token} is revoked")


def read_password(*, hidden: bool) -> str:
    """A password typed twice, unseen; or the first line of standard input."""
    if not hidden:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise typer.BadParameter("there is no terminal to ask at: give --password-stdin")
    password = getpass("Password: ")
    if getpass("Again: ") != password:
        raise typer.BadParameter("the two passwords differ")
    return password


def described(person: Person) -> dict[str, Any]:
    return {"id": person.id, "name": person.name, "role": person.role, "state": person.state}


def show_person(person: Person, said: str, as_json: bool, link: str | None = None) -> None:
    """What became of a person: a note, and on standard output the path of a link that is shown this once."""
    from alignment.console import note, output, print_json

    path = {} if link is None else {"link": f"/invitation/{link}"}
    if as_json:
        print_json(described(person) | path)
        return
    if link is not None:
        said += "; a password is chosen at this path of the app, once and within 7 days:"
    note(said)
    if link is not None:
        output.print(path["link"], markup=False, soft_wrap=True)
