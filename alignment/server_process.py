"""A server in a process group of its own: started, waited for, and ended with all its children."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from alignment.errors import AlignmentError

STOP_SECONDS = 20.0  # for a server to finish by itself
POLL_SECONDS = 0.2
# a traceback's last line, behind whatever a logger puts in front of it
ERROR = re.compile(r"(?:^|[\s\]])((?:[\w.]+\.)?\w*(?:Error|Exception)): (.+)$")
# Ends group $1 when its standard input does, a pipe that closes with us however we end; kills it after $2 tenths.
WATCH = """read _; kill -s TERM -- "-$1" 2>/dev/null; i=0
while kill -s 0 -- "-$1" 2>/dev/null && [ $i -lt "$2" ]; do sleep 0.1; i=$((i + 1)); done
kill -s KILL -- "-$1" 2>/dev/null"""
ECHO = ("Engine core initialization failed", "Engine process failed to start")  # of an error told before


class ServerProcess:
    """Runs `command` until the `with` block ends; what it prints goes to `log`.

    SIGTERM first, SIGKILL for what is left after `STOP_SECONDS`, both to the whole group: a server's workers
    outlive it otherwise, with the memory they hold. Should we be killed ourselves, a watching shell does the same.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.command, self.environment, self.log = list(command), dict(environment), log

    def __enter__(self) -> ServerProcess:
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(  # noqa: S603 (our own command)
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches it through us, once
            )
        self.watcher = subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", WATCH, "watch", str(self.process.pid), str(round(10 * STOP_SECONDS))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_until_ready(self, url: str, timeout: float, progress: Callable[[str], None]) -> None:
        """Until GET `url` answers 200; `progress` is given the last line of the log meanwhile.

        Raises AlignmentError, with the server's own words, if it dies before that or takes over `timeout` seconds.
        """
        end = time.monotonic() + timeout
        while not answers(url):
            self.refuse_dead("died at start")
            if time.monotonic() > end:
                raise AlignmentError(f"the server is not ready after {timeout:.0f} s: see {self.log}")
            progress(last_line(self.log))
            time.sleep(POLL_SECONDS)

    def wait(self) -> None:
        """Until the server ends by itself, which it should not: raises AlignmentError then."""
        while self.process.poll() is None:
            time.sleep(POLL_SECONDS)
        self.refuse_dead("ended")

    def refuse_dead(self, what: str) -> None:
        code = self.process.poll()
        if code is not None:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise AlignmentError(f"the server {what} ({how}): {own_words(self.log)} (its output: {self.log})")

    def stop(self) -> None:
        """End the whole group. A second interrupt does not wait."""
        try:
            self._signal(signal.SIGTERM)
            end = time.monotonic() + STOP_SECONDS
            while self.alive() and time.monotonic() < end:
                time.sleep(0.05)
        finally:
            self._signal(signal.SIGKILL)
            self.process.wait()
            self.watcher.kill()
            self.watcher.communicate()

    def alive(self) -> bool:
        """Whether any process of the group is left."""
        self.process.poll()  # a dead leader that is not waited for would count
        return self._signal(0)

    def _signal(self, number: int) -> bool:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return False
        return True


def answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy leads to this machine
    try:
        with opener.open(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


def own_words(log: Path) -> str:
    """The error that ended a server, as it put it: the last one in its log that is not the echo of another."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [match for line in lines if (match := ERROR.search(line.strip()))]
    causes = [match for match in errors if not match[2].startswith(ECHO)]
    if causes:
        return f"{causes[-1][1]}: {causes[-1][2]}"
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
