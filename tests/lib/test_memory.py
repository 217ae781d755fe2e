"""Large pages: which stretches of a process are its heap, and that asking for them changes nothing in it."""

from __future__ import annotations

import hashlib
import random
import sys

import pytest

from lib import memory

MAPS = """\
55d0c0400000-55d0c0401000 r-xp 00001000 fe:00 4242 /usr/bin/python3.11
55d0c1300000-55d0c1b00000 rw-p 00000000 00:00 0 [heap]
7f0000000000-7f0000100000 rw-p 00000000 00:00 0
7f0000200000-7f0000500000 rw-p 00000000 00:00 0
7f0001000000-7f0001400000 r--p 00000000 00:00 0
7f0002000000-7f0002400000 rw-s 00000000 00:00 0
7f0003000000-7f0003400000 rw-p 00000000 fe:00 4242 /usr/lib/a library.so
7ffd00000000-7ffd00400000 rw-p 00000000 00:00 0 [stack]
"""


def test_the_heap_is_private_writable_memory_of_no_file_in_whole_large_pages() -> None:
    assert list(memory.heap(MAPS)) == [(0x55D0C1400000, 0x55D0C1A00000), (0x7F0000200000, 0x7F0000400000)]


@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux can be asked for large pages.")
def test_what_is_in_memory_stays_as_it_was() -> None:
    kept = random.Random(1).randbytes(3 * memory.LARGE)
    before = hashlib.sha256(kept).digest()
    memory.use_large_pages()
    assert hashlib.sha256(kept).digest() == before
