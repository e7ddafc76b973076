import subprocess
import sys

NUM_BYTES = 16 * 2**20

PROGRAM = f"""
import resource, sys
import numpy as np
from lightning_rl.cpu.allocator import keep_freed_memory, return_freed_memory

def page_faults(num_bytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(num_bytes, dtype=np.uint8)  # from the heap that torch's tensors come from
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] != "untouched":
    keep_freed_memory()
if sys.argv[1] == "return":
    return_freed_memory()
page_faults(4 * {NUM_BYTES})  # freed at once
print(page_faults({NUM_BYTES}))
"""


def start_counting(mode: str) -> subprocess.Popen[str]:
    # a process of its own, since earlier allocations of this one decide where a block goes
    return subprocess.Popen([sys.executable, "-c", PROGRAM, mode], stdout=subprocess.PIPE, text=True)


def test_kept_memory_is_reused_without_page_faults_until_it_is_returned() -> None:
    processes = [start_counting(mode) for mode in ("keep", "return", "untouched")]

    kept, returned, untouched = (int(process.communicate()[0]) for process in processes)

    assert kept < untouched / 100
    assert kept < returned / 100
