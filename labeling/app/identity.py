"""Who is asking: only ever answered from the request's own cookie or token, anew for each request.

Nothing else in a request says who sent it: not a hidden field, not a session hash, not a path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from labeling.errors import LabelingError
from labeling.people.person import Person, Role
from labeling.people.sessions import person_of_session
from labeling.people.tokens import person_of_token
from labeling.store import Store

if TYPE_CHECKING:
    import gradio as gr

COOKIE = "align_session"
STORE_KEY = "align.store"  # where the server leaves its store in each request's scope


class NotSignedIn(LabelingError):
    """The request names nobody, or somebody whose session or token has ended."""


class NotAllowed(LabelingError):
    """The person is known, but this needs a higher role."""


def status_of(error: Exception) -> int:
    """The HTTP status that says of a refusal what kind it is."""
    return 401 if isinstance(error, NotSignedIn) else 403 if isinstance(error, NotAllowed) else 400


def person_of(request: Request | gr.Request) -> Person:
    """The person behind a request: by its Bearer token if it has one, else by its session cookie.

    Raises NotSignedIn.
    """
    wrapped: Any = request
    plain: Request = getattr(wrapped, "request", wrapped)  # Gradio wraps the one that it was sent
    store: Store = plain.scope[STORE_KEY]
    scheme, _, token = plain.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        person = person_of_token(store, token.strip())
    else:
        person = person_of_session(store, plain.cookies.get(COOKIE, ""))
    if person is None:
        raise NotSignedIn("you are not signed in, or your session has ended: sign in again")
    return person


def require(request: Request | gr.Request, role: Role) -> Person:
    """The person behind a request, who has at least this role. Raises NotSignedIn or NotAllowed."""
    person = person_of(request)
    if not person.may(role):
        raise NotAllowed(f"this needs the role {role}; yours is {person.role}")
    return person
