"""The HTTP API for scripts, at /api. Who asks is read from their Bearer token (or cookie) in each request."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Header, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from labeling.app.callers import Annotator, Lead
from labeling.app.downloads import add_downloads
from labeling.app.identity import status_of
from labeling.app.uploads import import_upload
from labeling.app.wire import AnswerIn, Item, Me, Problem, Reason, Recorded
from labeling.errors import LabelingError
from labeling.export import label_rows
from labeling.figures.dashboard import read_dashboard
from labeling.people import audit
from labeling.queue.claim import claim
from labeling.queue.progress import progress
from labeling.queue.settings import QueueSettings, read_settings, save_settings
from labeling.queue.submit import flag, skip, submit, undo
from labeling.store import Store

PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": what}
    for code, what in {
        400: "it cannot be done; `error` says why",
        401: "nobody, or a token that was revoked",
        403: "your role is too low",
        422: "the request is malformed",
    }.items()
}
NOTHING_LEFT: dict[int | str, dict[str, Any]] = {204: {"description": "nothing is left for you"}}


class OneLineErrors(APIRoute):
    """Whatever goes wrong in ways that the caller can mend is one JSON line: {"error": ...}."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                return problem(422, "; ".join(map(field_problem, error.errors())))
            except LabelingError as error:
                status = status_of(error)
                return problem(status, str(error), {"WWW-Authenticate": "Bearer"} if status == 401 else None)

        return answered


def problem(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": text}, status, headers)


def field_problem(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"][1:])
    return f"{where}: {error['msg']}" if where else str(error["msg"])


Key = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="names this attempt; sent again with the same key, it is recorded once",
    ),
]


def router(store: Store) -> APIRouter:
    """Every route of the API over this store. Handlers are plain functions: they run in the thread pool."""
    api = APIRouter(
        route_class=OneLineErrors, responses=PROBLEMS, dependencies=[Depends(HTTPBearer(auto_error=False))]
    )

    @api.get("/me", tags=["anyone"])
    def me(person: Annotator) -> Me:
        """Who the token belongs to."""
        return Me(name=person.name, role=person.role, language=person.language)

    @api.post("/claim", tags=["labeling"], response_model=Item, responses=NOTHING_LEFT)
    def claim_(person: Annotator) -> Any:
        """The next item for you, or the one that you hold already; 204 when nothing is left."""
        assigned = claim(store, person.id)
        return Item.of(store, assigned) if assigned else Response(status_code=204)

    @api.post("/assignments/{token}/submit", tags=["labeling"])
    def submit_(token: str, answer: AnswerIn, key: Key, person: Annotator) -> Recorded:
        """Record your answer. The same key again gives the same label."""
        done = submit(store, token, person.id, answer.answer(), key=key)
        return Recorded(label_id=done.label_id, late=done.late)

    @api.post("/assignments/{token}/skip", tags=["labeling"], status_code=204)
    def skip_(token: str, reason: Reason, person: Annotator) -> None:
        """Give the item back; it does not come to you again."""
        skip(store, token, person.id, reason.reason)

    @api.post("/assignments/{token}/flag", tags=["labeling"], status_code=204)
    def flag_(token: str, reason: Reason, person: Annotator) -> None:
        """Tell the lead that something is wrong with the item; it stays yours to answer."""
        flag(store, token, person.id, reason.reason)

    @api.post("/undo", tags=["labeling"], response_model=Item, responses=NOTHING_LEFT)
    def undo_(person: Annotator) -> Any:
        """Your last answer's item again; the old answer stands until you submit a new one."""
        assigned = undo(store, person.id)
        return Item.of(store, assigned) if assigned else Response(status_code=204)

    @api.get("/progress", tags=["labeling"])
    def progress_(person: Annotator) -> dict[str, Any]:
        """What you have done today and in all, and what is left for you at most."""
        return asdict(progress(store, person.id))

    @api.get("/stats", tags=["lead"])
    def stats(person: Lead) -> dict[str, Any]:
        """Every figure of the dashboard."""
        return read_dashboard(store).as_dict()

    @api.get("/labels", tags=["lead"], response_class=StreamingResponse)
    def labels(person: Lead) -> StreamingResponse:
        """Every label that is not superseded, as JSON lines, streamed."""
        return StreamingResponse(json_lines(store), media_type="application/x-ndjson")

    @api.post("/import", tags=["lead"])
    def import_(file: UploadFile, person: Lead, format: Annotated[str, Form()] = "auto") -> dict[str, Any]:
        """Import an uploaded file: what was found, added and rejected, and why."""
        report, rejected = import_upload(store, person, file.file, file.filename or "", format=format)
        return report.as_dict() | {"rejected_rows": [json.loads(row) for row in rejected]}

    @api.get("/settings", tags=["lead"])
    def settings(person: Lead) -> QueueSettings:
        """The queue's settings in force."""
        return read_settings(store)

    @api.put("/settings", tags=["lead"])
    def put_settings(settings: QueueSettings, person: Lead) -> QueueSettings:
        """Replace the queue's settings; what is left out takes its default."""
        save_settings(store, settings)
        audit.record(store, person.id, "queue.settings", "queue", settings.model_dump())
        return settings

    add_downloads(api, store)
    return api


def json_lines(store: Store) -> Iterator[str]:
    for row in label_rows(store):
        yield json.dumps(row, ensure_ascii=False) + "\n"
