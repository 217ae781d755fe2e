"""Memory of a process that has loaded what it needs and now serves for weeks.

What stays is taken out of the garbage collector's sight, and moved into pages of 2 MiB where Linux lets us: one call
walks over thousands of small objects all over the heap, and with pages of 4 KiB finding each of them costs as much as an
eighth of the call (measured on a virtual machine, where that is dearest).
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from pathlib import Path

LARGE = 2 * 1024 * 1024  # bytes of a large page on x86-64, and on ARM with pages of 4 KiB
MADV_HUGEPAGE, MADV_COLLAPSE = 14, 25  # linux/mman.h; the second since Linux 6.1


def settle() -> None:
    """Call once, when everything is loaded. Takes about a tenth of a second; without effect where the system says no."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    if sys.platform == "linux":
        use_large_pages()


def use_large_pages() -> int:
    """Ask for large pages for the whole heap, at once and for what it grows by. How many there are now."""
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    made = 0
    for begin, end in heap(Path("/proc/self/maps").read_text()):
        advise(begin, end - begin, MADV_HUGEPAGE)
        # Page by page: a stretch that nobody has used yet is an error, and must not end the rest.
        made += sum(advise(at, LARGE, MADV_COLLAPSE) == 0 for at in range(begin, end, LARGE))
    return made


def heap(maps: str) -> Iterator[tuple[int, int]]:
    """Stretches of whole large pages of private, writable memory that belongs to no file, from /proc/self/maps."""
    for line in maps.splitlines():
        place, rights, _offset, _device, inode, *name = line.split(maxsplit=5)
        if rights[:2] != "rw" or rights[3] != "p" or inode != "0" or name not in ([], ["[heap]"]):
            continue
        begin, end = (int(each, 16) for each in place.split("-"))
        begin, end = -(-begin // LARGE) * LARGE, end // LARGE * LARGE
        if begin < end:
            yield begin, end
