"""The heap of a training process: large buffers are made and freed without the kernel's help."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
PROGRAM = """
import json, resource, sys
import torch
from alignment.heap import hold_heap
held = sys.argv[1] == "held" and hold_heap() and hold_heap()
kept = torch.ones(8 << 20)
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def buffers(): return [torch.ones(4 << 20), torch.ones(12 << 20)]  # 16 and 48 MiB
buffers()
before = faults()
for _ in range(10): buffers()
after = faults()
huge = sum(int(line.split()[1]) for line in open("/proc/self/smaps") if line.startswith("AnonHugePages"))
print(json.dumps({"held": held, "faults": after - before, "huge_kib": huge, "sum": float(kept.sum())}))
"""


def buffers_made(how: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def test_what_is_freed_is_used_again_without_a_fault():
    plain, held = buffers_made("plain"), buffers_made("held")
    assert plain["faults"] > 10_000  # 64 MiB ten times, 4 KiB at a time, or most of it
    assert held["held"]
    assert held["faults"] < plain["faults"] / 20  # a few while the heap settles
    assert held["sum"] == plain["sum"] == 8 << 20


def test_the_heap_is_in_huge_pages_where_the_kernel_has_them():
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("this kernel has no huge pages to give")
    assert buffers_made("held")["huge_kib"] > 32 << 10
