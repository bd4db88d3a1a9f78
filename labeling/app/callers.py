"""Who calls the HTTP API, as parameters of its handlers: asking for one refuses everybody else."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from labeling.app.identity import require
from labeling.people.person import Person


def annotator(request: Request) -> Person:
    return require(request, "annotator")


def lead(request: Request) -> Person:
    return require(request, "lead")


Annotator = Annotated[Person, Depends(annotator)]
Lead = Annotated[Person, Depends(lead)]
