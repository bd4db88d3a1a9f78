"""The people: who they are, what they may do, and the links by which they come in.

Who may change whom is the accounts' own to decide; they also write the audit record.
"""

from __future__ import annotations

import gradio as gr

from labeling.app.lead.desk import Asking, Desk, Updates, heading, ours, table
from labeling.errors import LabelingError
from labeling.people import accounts
from labeling.people.accounts import Person, Role
from labeling.people.tokens import make_token
from labeling.store import Store

ROLES = [("Annotator", "annotator"), ("Lead", "lead"), ("Admin", "admin")]


def lay_out(tab: gr.Tab, store: Store) -> None:
    desk = Desk.lay_out(store)
    secret = gr.Textbox(interactive=False, visible=False, elem_id="secret")
    listed = ours()
    heading("Invite", "The link is shown once, here. Whoever opens it chooses a password and is in.")
    with gr.Row(elem_classes="line"):
        name = gr.Textbox(label="Name", max_lines=1)
        role = gr.Dropdown(ROLES, value="annotator", label="Role")
        invite = gr.Button("Make a link", variant="primary")
    heading("Change", "Admins change everybody, leads change annotators.")
    with gr.Row(elem_classes="line"):
        who = gr.Dropdown([], label="Person")
        new_role = gr.Dropdown(ROLES, value="annotator", label="New role")
        set_role = gr.Button("Set the role")
    with gr.Row(elem_classes="line"):
        reset = gr.Button("Reset the password")
        token = gr.Button("Make an API token")
        activate = gr.Button("Activate")
        deactivate = gr.Button("Deactivate", variant="stop")

    def show(asking: Asking) -> Updates:
        everyone = accounts.people(store)
        return {listed: people_table(everyone), who: gr.update(choices=[one.name for one in everyone])}

    def told(asking: Asking, said: str, label: str = "", shown: str = "") -> Updates:
        """The list as it is now, what was done, and perhaps a secret that is shown this once."""
        secret_now = gr.update(value=shown, label=label, visible=bool(shown))
        return {**show(asking), secret: secret_now, name: "", **desk.says(said)}

    def invite_(asking: Asking, called: str, role: Role) -> Updates:
        link = accounts.invite(store, called or "", role, by=asking.id)
        return told(asking, f"{called} can come in by this link.", "One-time link", linked(asking, link))

    def set_role_(asking: Asking, name: str | None, role: Role) -> Updates:
        person = accounts.set_role(store, chosen(store, name).id, role, by=asking.id)
        return told(asking, f"{person.name} is {person.role} now.")

    def reset_(asking: Asking, name: str | None) -> Updates:
        person = chosen(store, name)
        link = accounts.reset_password(store, person.id, by=asking.id)
        said = f"{person.name} is signed out and chooses a new password by this link."
        return told(asking, said, "One-time link", linked(asking, link))

    def token_(asking: Asking, name: str | None) -> Updates:
        person = chosen(store, name)
        made = make_token(store, person.id, "from the lead's page", by=asking.id)
        return told(asking, f"Scripts act for {person.name} with this token.", "API token", made)

    def activate_(asking: Asking, name: str | None) -> Updates:
        person = accounts.activate(store, chosen(store, name).id, by=asking.id)
        return told(asking, f"{person.name} is active.")

    def deactivate_(asking: Asking, name: str | None) -> Updates:
        person = accounts.deactivate(store, chosen(store, name).id, by=asking.id)
        return told(asking, f"{person.name} is shut out; their labels stay.")

    outputs = [secret, listed, who, name]
    desk.on(tab.select, show, outputs=[listed, who])
    desk.on(invite.click, invite_, [name, role], outputs)
    desk.on(set_role.click, set_role_, [who, new_role], outputs)
    desk.on(reset.click, reset_, [who], outputs)
    desk.on(token.click, token_, [who], outputs)
    desk.on(activate.click, activate_, [who], outputs)
    desk.on(deactivate.click, deactivate_, [who], outputs)


def people_table(everyone: list[Person]) -> str:
    rows = [(one.name, one.role, one.state, one.language) for one in everyone]
    return table("People", ("Name", "Role", "State", "Language"), rows, "Nobody is here yet.")


def chosen(store: Store, name: str | None) -> Person:
    if not name:
        raise LabelingError("choose a person first")
    return accounts.person_named(store, name)


def linked(asking: Asking, token: str) -> str:
    return f"{asking.origin}/invitation/{token}"
