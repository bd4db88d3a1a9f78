"""The batch API of an endpoint: a file of requests goes in, and within a day a file of replies comes out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from labeling.errors import LabelingError
from labeling.judge.calls.client import CallFailed, JudgeClient
from labeling.judge.calls.ledger import Call

ENDED = ("completed", "failed", "expired", "cancelled")
OUR_NAME = "align"  # of the field in its metadata that holds our own name of a batch


@dataclass(frozen=True)
class Remote:
    """A batch as its endpoint tells of it."""

    id: str
    status: str
    files: tuple[str, ...]  # of replies and of errors, once it has ended
    complaint: str = ""  # why the endpoint did not take it

    @property
    def ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True)
class Line:
    """What a batch's files say of one call."""

    key: str
    reply: dict[str, Any] | None
    error: str = ""


class BatchClient(JudgeClient):
    """Failures are CallFailed, as for single calls: the caller tries again or gives up by what they say."""

    async def submit(self, token: str, calls: Sequence[Call]) -> Remote:
        """Hand over these calls in one batch. Raises CallFailed; the batch may have been taken even so."""
        lines = (
            {"custom_id": call.key, "method": "POST", "url": "/v1/chat/completions", "body": call.body}
            for call in calls
        )
        content = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode()
        uploaded = await self._asked(
            self._client.files.create(file=(f"{token}.jsonl", content), purpose="batch")
        )
        made = self._client.batches.create(
            input_file_id=uploaded.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={OUR_NAME: token},
        )
        return as_remote(await self._asked(made))

    async def find(self, token: str) -> Remote | None:
        """The batch that bears our name `token`, if the endpoint took it."""

        async def look() -> Remote | None:
            async for one in self._client.batches.list(limit=100):
                if (one.metadata or {}).get(OUR_NAME) == token:
                    return as_remote(one)
            return None

        return await self._asked(look())

    async def look(self, remote_id: str) -> Remote:
        return as_remote(await self._asked(self._client.batches.retrieve(remote_id)))

    async def lines(self, remote: Remote) -> list[Line]:
        """What the batch's files say, call by call."""
        found: list[Line] = []
        for name in remote.files:
            content = await self._asked(self._client.files.content(name))
            found += read_lines(self._without_key(content.text))
        return found

    async def _asked(self, awaited: Any) -> Any:
        import openai

        try:
            async with asyncio.timeout(self._config.timeout_seconds):
                return await awaited
        except TimeoutError:
            raise CallFailed("no reply from the batch API", then="retry", paid="perhaps") from None
        except openai.NotFoundError:
            raise LabelingError(
                f"{self._config.base_url} has no batch API (404); run without --batch"
            ) from None
        except openai.OpenAIError as error:
            raise self._explain(error) from None


def as_remote(batch: Any) -> Remote:
    files = tuple(name for name in (batch.output_file_id, batch.error_file_id) if name)
    errors = (batch.errors.data if batch.errors else None) or []
    return Remote(batch.id, batch.status, files, "; ".join(str(error.message) for error in errors[:3]))


def read_lines(text: str) -> Iterator[Line]:
    """Lines that name no call are passed over: their calls are then told as not run."""
    for raw in text.splitlines():
        try:
            line = json.loads(raw)
            key, response, error = line["custom_id"], line.get("response") or {}, line.get("error") or {}
            body = response.get("body")
            if response.get("status_code") == 200 and isinstance(body, dict):
                yield Line(key, body)
            else:
                said = error or (body or {}).get("error") or {}
                yield Line(
                    key, None, f"{response.get('status_code', 'not run')}: {said.get('message', said)}"
                )
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
