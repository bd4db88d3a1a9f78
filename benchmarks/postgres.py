"""A PostgreSQL server of one's own, from Debian's package, for tests and benchmarks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError


class NotInstalled(Exception):
    """There is no PostgreSQL to start."""


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of a server that lives as long as the block; it does not flush to disk.

    ALIGN_TEST_POSTGRES names one to use instead. Raises NotInstalled where there is neither.
    """
    if given := os.environ.get("ALIGN_TEST_POSTGRES"):
        yield given
        return
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not programs:
        raise NotInstalled(
            "PostgreSQL is not installed (apt install postgresql) and ALIGN_TEST_POSTGRES is not set"
        )
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    # PostgreSQL refuses to run as root; the package makes a user for it.
    user = "postgres" if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    folder.chmod(0o700)
    data, initdb = folder / "data", programs[-1].with_name("initdb")
    subprocess.run(
        [initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
        check=True, capture_output=True, user=user, cwd=folder,
    )  # fmt: skip
    options = {"listen_addresses": "", "unix_socket_directories": folder, "fsync": "off"}
    server = subprocess.Popen(
        [programs[-1], "-D", data, *(f"--{key}={value}" for key, value in options.items())],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=user, cwd=folder,
    )  # fmt: skip
    url = f"postgresql+psycopg://postgres@/postgres?host={folder}"
    try:
        wait_for(url)
        yield url
    finally:
        server.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
        try:
            server.wait(5)
        except subprocess.TimeoutExpired:
            server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(url: str) -> None:
    engine = create_engine(url)
    for _ in range(300):
        try:
            engine.connect().close()
            return
        except OperationalError:
            time.sleep(0.1)
    raise TimeoutError("PostgreSQL did not start within 30 s")
