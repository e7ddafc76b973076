import resource

import torch

from lightning_rl.allocator import keep_freed_memory

NUM_BYTES = 64 * 2**20


def page_faults_of_a_large_tensor() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(NUM_BYTES, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_a_freed_block_is_used_again_without_the_kernel() -> None:
    keep_freed_memory()
    page_faults_of_a_large_tensor()
    num_pages = NUM_BYTES // resource.getpagesize()
    assert page_faults_of_a_large_tensor() < num_pages / 1000
