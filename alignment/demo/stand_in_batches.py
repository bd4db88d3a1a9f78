"""The batch side of the stand-in judge: files in, batches that take a while, files out, in memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Answer = Callable[[dict[str, Any]], tuple[int, Any]]  # a request's body -> (status, the reply's body)


@dataclass(frozen=True)
class BatchManner:
    """How batches fare."""

    seconds: float = 0.2  # until one has come to its end
    expires: float = 0.0  # share of batches that expire
    done_at_expiry: float = 0.5  # share of an expired batch's requests that were answered
    lost: float = 0.0  # share of submissions that are taken, and whose answer is lost


@dataclass
class Batch:
    name: str
    requests: list[dict[str, Any]]
    created: float
    metadata: dict[str, str]
    expires: bool
    cancelled: bool = False
    files: dict[str, str | None] = field(default_factory=dict)  # output and error, once it has ended


@dataclass
class Batches:
    """What `/v1/files` and `/v1/batches` of the stand-in do."""

    manner: BatchManner
    answer: Answer
    drawn: Callable[..., float]
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)

    def add_file(self, content: bytes) -> dict[str, Any]:
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return {"id": name, "object": "file", "bytes": len(content), "created_at": 0, "purpose": "batch"} | {
            "filename": "batch.jsonl",
            "status": "processed",
        }

    def create(self, body: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """The new batch as the API shows it, and whether its answer is to be lost on the way."""
        name = f"batch-{len(self.batches)}"
        requests = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
        self.batches[name] = Batch(
            name,
            requests,
            time.monotonic(),
            body.get("metadata") or {},
            expires=self.drawn("expires", name) < self.manner.expires,
        )
        return self.shown(name), self.drawn("lost", name) < self.manner.lost

    def shown(self, name: str) -> dict[str, Any]:
        """A batch as it is now; at its end it writes its files."""
        batch = self.batches[name]
        ended = batch.cancelled or time.monotonic() - batch.created >= self.manner.seconds
        if ended and not batch.files:
            self.finish(batch)
        how = "cancelled" if batch.cancelled else "expired" if batch.expires else "completed"
        return {
            "id": name,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "created_at": 0,
            "input_file_id": "",
            "status": how if ended else "in_progress",
            "output_file_id": batch.files.get("output"),
            "error_file_id": batch.files.get("error"),
            "metadata": batch.metadata,
        }

    def finish(self, batch: Batch) -> None:
        whole = not (batch.expires or batch.cancelled)
        done = len(batch.requests) if whole else int(len(batch.requests) * self.manner.done_at_expiry)
        lines: dict[str, list[bytes]] = {"output": [], "error": []}
        for request in batch.requests[:done]:
            status, body = self.answer(request["body"])
            line = {
                "custom_id": request["custom_id"],
                "response": {"status_code": status, "body": body},
                "error": None,
            }
            lines["output" if status == 200 else "error"].append(json.dumps(line).encode())
        for request in batch.requests[done:]:
            error = {"code": "batch_expired", "message": "This request was not run before the batch ended."}
            line = {"custom_id": request["custom_id"], "response": None, "error": error}
            lines["error"].append(json.dumps(line).encode())
        for kind, found in lines.items():
            batch.files[kind] = self.add_file(b"\n".join(found))["id"] if found else None
