"""Freed memory that a process keeps needs no page faults when it is used again."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from ulzoo.runtime.devices import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory(torch.device("cpu"))
def step():
    return sum(float(x.sum()) for x in [torch.ones(1 << 20) for _ in range(10)])  # 40 MB, all freed at its end
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(allocator: str) -> int:
    command = [sys.executable, "-c", FAULTS, allocator]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_used_again() -> None:
    assert page_faults("kept") < page_faults("default") / 5
