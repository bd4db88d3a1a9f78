"""docs/labeling.md: every command in it runs, in its order, against the server that it starts."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

DOCS = Path(__file__).parents[2] / "docs" / "labeling.md"


def blocks() -> list[tuple[str, str]]:
    """(what kind, its commands) of each shell block."""
    return re.findall(r"^```sh(| server)\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.M | re.S)


def test_every_command_runs(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = ["set -euo pipefail"]
    server = None
    try:
        for kind, written in blocks():
            commands = written.replace("7860", port)
            if kind:
                server = subprocess.Popen(
                    commands.split(), cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
                )
                wait_for(port, server)
                script = script[:1]
            else:
                script.append(commands)
                if server is None:
                    run("\n".join(script), tmp_path, environment)
        output = run("\n".join(script), tmp_path, environment)
        assert server is not None
        said = (
            os.read(server.stdout.fileno(), 10_000) if select.select([server.stdout], [], [], 20)[0] else b""
        )
    finally:
        if server:
            server.terminate()
            server.wait(20)
    assert b"/invitation/" in said  # while it runs, also where its output goes to a file
    assert '"name":"ann","role":"annotator"' in output
    assert '"late":false' in output
    assert '"overlap":3' in output
    assert (tmp_path / "labels.parquet").exists()
    assert (tmp_path / "snapshot.zip").exists()


def run(script: str, folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-c", script], check=False, cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_for(port: str, server: subprocess.Popen[str]) -> None:
    for _ in range(600):
        assert server.poll() is None
        try:
            httpx.get(f"http://127.0.0.1:{port}/health")
            return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail("the server did not start within a minute")


def test_every_setting_is_told():
    from labeling.queue.settings import QueueSettings

    told = set(re.findall(r"`([a-z_]+)`", DOCS.read_text(encoding="utf-8")))
    assert set(QueueSettings.model_fields) <= told
