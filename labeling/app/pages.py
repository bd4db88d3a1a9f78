"""Signing in and out, invitations and preferences: plain pages that need no script."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from labeling.app.frame import THEMES, templates
from labeling.app.identity import COOKIE, NotSignedIn, person_of
from labeling.app.texts import LANGUAGES, Texts, texts
from labeling.errors import LabelingError
from labeling.people.accounts import set_preferences
from labeling.people.passwords import accept_invitation, invited
from labeling.people.person import Person
from labeling.people.secret import SHORTEST_PASSWORD
from labeling.people.sessions import SignInRefused, open_session, sign_in, sign_out
from labeling.store import Store

HOME, ADMIN = "/label", "/admin"
COOKIE_DAYS = 400  # the most that browsers keep; when a session ends is for the database to say
Field = Annotated[str, Form(max_length=1024)]


def router(store: Store) -> APIRouter:
    """The pages over a store."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    def root() -> Response:
        return RedirectResponse(HOME, 303)

    @routes.get(HOME)
    def label(request: Request) -> Response:
        """The annotator's page in their language."""
        return for_signed_in(request, lambda person: RedirectResponse(f"{HOME}/{person.language}/", 303))

    @routes.get("/login")
    def sign_in_page(request: Request) -> Response:
        return page(request, "sign_in.html.j2", lambda words: words.sign_in, name="")

    @routes.post("/login")
    def sign_in_now(request: Request, name: Field, password: Field, next: str = HOME) -> Response:
        try:
            token = sign_in(store, name, password, address_of(request))
        except SignInRefused as error:
            status = 429 if error.wait else 401
            refused = page(
                request, "sign_in.html.j2", lambda words: words.sign_in, status, name=name, wrong=str(error)
            )
            if error.wait:
                refused.headers["Retry-After"] = str(ceil(error.wait))
            return refused
        return with_cookie(request, RedirectResponse(local(next), 303), token)

    @routes.post("/logout")
    def sign_out_now(request: Request) -> Response:
        sign_out(store, request.cookies.get(COOKIE, ""))
        response = RedirectResponse("/login", 303)
        response.delete_cookie(COOKIE)
        return response

    @routes.get("/invitation/{token}")
    def invitation_page(request: Request, token: str) -> Response:
        return invitation(request, token)

    @routes.post("/invitation/{token}")
    def accept(request: Request, token: str, password: Field, again: Field) -> Response:
        if password != again:
            return invitation(request, token, lambda words: words.passwords_differ)
        try:
            person = accept_invitation(store, token, password)
            session = open_session(store, person.id)
        except LabelingError as error:
            told = str(error)
            return invitation(request, token, lambda words: told)
        return with_cookie(request, RedirectResponse(HOME, 303), session)

    @routes.post("/preferences")
    def prefer(request: Request, language: Field = "", theme: Field = "") -> Response:
        def change(person: Person) -> Response:
            set_preferences(
                store,
                person.id,
                language=next((known for known in LANGUAGES if known == language), None),
                theme=next((known for known in THEMES if known == theme), None),
            )
            return RedirectResponse(back(request), 303)

        return for_signed_in(request, change)

    def invitation(request: Request, token: str, wrong: Callable[[Texts], str] | None = None) -> Response:
        try:
            person = invited(store, token)
        except LabelingError:
            words = language_of(request)
            return page(
                request, "page.html.j2", lambda words: words.choose_password, 404, wrong=words.link_ended
            )
        return page(
            request,
            "invitation.html.j2",
            lambda words: words.choose_password,
            400 if wrong else 200,
            name=person.name,
            least=SHORTEST_PASSWORD,
            wrong=wrong(language_of(request)) if wrong else "",
        )

    return routes


def page(
    request: Request, template: str, title: Callable[[Texts], str], status: int = 200, **context: Any
) -> Response:
    words = language_of(request)
    html = templates.get_template(template).render(words=words, title=title(words), **context)
    return HTMLResponse(html, status, headers={"Cache-Control": "no-store"})


def for_signed_in(request: Request, answer: Callable[[Person], Response]) -> Response:
    try:
        return answer(person_of(request))
    except NotSignedIn:
        return RedirectResponse("/login", 303)


def with_cookie(request: Request, response: Response, token: str) -> Response:
    response.set_cookie(
        COOKIE,
        token,
        max_age=COOKIE_DAYS * 24 * 3600,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return response


def language_of(request: Request) -> Texts:
    """The language of somebody who has not signed in: the browser's first wish."""
    wished = request.headers.get("accept-language", "")
    return texts("zh" if wished.lower().startswith("zh") else "en")


def local(path: str) -> str:
    """A path to go on to, if it is one of ours: never another site."""
    parts = urlsplit(path)
    ours = path.startswith("/") and not path.startswith("//") and not parts.netloc and "\\" not in path
    return path if ours else HOME


def back(request: Request) -> str:
    """To the lead's page if the request came from there, else home, where a new language takes effect."""
    came_from = urlsplit(request.headers.get("referer", "")).path
    return came_from if came_from.startswith(ADMIN) else HOME


def address_of(request: Request) -> str:
    return request.client.host if request.client else ""
