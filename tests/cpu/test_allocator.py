import subprocess
import sys

NUM_BYTES = 16 * 2**20

PROGRAM = f"""
import resource, sys
import numpy as np
from lightning_rl.cpu.allocator import keep_freed_memory

def page_faults(num_bytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(num_bytes, dtype=np.uint8)  # from the heap that torch's tensors come from
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    keep_freed_memory()
page_faults(4 * {NUM_BYTES})  # room that is free afterwards
print(page_faults({NUM_BYTES}))
"""


def counting(habit: str) -> subprocess.Popen[str]:
    # a process of its own: what others left in the heap of this one decides where a block goes
    return subprocess.Popen([sys.executable, "-c", PROGRAM, habit], stdout=subprocess.PIPE, text=True)


def test_a_freed_block_is_used_again_without_the_kernel_only_when_it_is_kept() -> None:
    started = [counting(habit) for habit in ("keep", "return")]

    kept, returned = (int(process.communicate()[0]) for process in started)

    assert kept < returned / 100
