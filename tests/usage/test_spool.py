"""The spool file by file: lines, locks, sizes, full disks."""

from __future__ import annotations

import errno
import os
import resource
import threading
from pathlib import Path

import pytest

from usage import spool
from usage.spool import FINISHED, STARTED, Spool, SpoolFull


def bodies(own: Spool) -> list[bytes]:
    return [payload for segment in own.segments for _, payload in segment.lines(2**20).whole]


@pytest.mark.parametrize("payload", [b"{}", b"", "ü".encode() * 1000, b'{"a":"\\n"}'])
def test_a_line_reads_as_it_was_written(payload: bytes) -> None:
    line = spool.encode(FINISHED, payload)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert spool.decode(line[:-1]) == (FINISHED, payload)


def test_every_single_flipped_bit_is_noticed() -> None:
    line = spool.encode(STARTED, b'{"call_id":"x"}')[:-1]
    for at in range(len(line)):
        for bit in range(8):
            bad = bytearray(line)
            bad[at] ^= 1 << bit
            found = spool.decode(bytes(bad))
            assert found is None or found == (STARTED, b'{"call_id":"x"}')  # hex digits have two cases


@pytest.mark.parametrize("cut", [0, 1, 17, 18, 30])
def test_every_torn_line_is_noticed(cut: int) -> None:
    assert spool.decode(spool.encode(STARTED, b'{"call_id":"x"}')[:cut]) is None


def test_files_are_closed_by_size_and_only_the_last_grows(tmp_path: Path) -> None:
    own = Spool(tmp_path, max_bytes=500)
    for _ in range(20):
        own.append(FINISHED, b"x" * 100)
    assert len(own.segments) == 4
    assert [segment.sealed for segment in own.segments] == [True] * 3 + [False]
    assert [path.name for path in sorted(tmp_path.iterdir())] == [segment.path.name for segment in own.segments]
    assert len(bodies(own)) == 20
    own.close()


def test_files_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    own = Spool(tmp_path)
    own.append(FINISHED, b"{}")
    assert own.segments[0].path.stat().st_mode & 0o777 == 0o600
    own.close()


def test_a_line_that_is_only_half_there_is_waited_for(tmp_path: Path) -> None:
    own = Spool(tmp_path)
    own.append(FINISHED, b"first")
    segment = own.segments[0]
    line = spool.encode(FINISHED, b"second")
    os.write(segment.fd, line[:10])
    assert [payload for _, payload in segment.lines().whole] == [b"first"]
    os.write(segment.fd, line[10:])
    assert [payload for _, payload in segment.lines().whole] == [b"first", b"second"]
    own.close()


def test_a_line_longer_than_a_reading_is_read_whole(tmp_path: Path) -> None:
    own = Spool(tmp_path)
    own.append(FINISHED, b"x" * 5_000)
    own.append(FINISHED, b"y")
    own._seal()
    assert [len(payload) for _, payload in own.segments[0].lines(1_000).whole] == [5_000, 1]
    own.close()


def test_reading_beside_writing_sees_every_line_once(tmp_path: Path) -> None:
    own = Spool(tmp_path, max_bytes=10_000)
    writer = threading.Thread(target=lambda: [own.append(FINISHED, b"%d" % n) for n in range(5_000)])
    writer.start()
    seen: list[bytes] = []
    while writer.is_alive() or any(segment.read < segment.size for segment in own.segments):
        for segment in list(own.segments):
            found = segment.lines()
            seen += [payload for _, payload in found.whole]
            segment.read = found.end
    assert seen == [b"%d" % n for n in range(5_000)]
    own.close()


def test_half_a_line_is_taken_back_when_the_disk_is_full(tmp_path: Path) -> None:
    """RLIMIT_FSIZE cuts a write short, as a full disk does."""
    own = Spool(tmp_path)
    own.append(FINISHED, b"before")
    size = own.segments[0].size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))
    try:
        with pytest.raises(SpoolFull):
            own.append(FINISHED, b"too long for what is left")
        own.keep(FINISHED, b"an end that must not be lost")
        assert not own.healthy
        own.tend()
        assert not own.healthy, "still full"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    own.tend()
    assert own.healthy
    assert bodies(own) == [b"before", b"an end that must not be lost"]
    own.close()


def test_a_directory_that_is_gone_is_a_full_disk(tmp_path: Path) -> None:
    own = Spool(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SpoolFull, match=os.strerror(errno.ENOENT)):
        own.append(FINISHED, b"{}")
    assert not own.healthy


def test_what_a_process_left_half_made_is_swept_up_but_not_at_once(tmp_path: Path) -> None:
    old, young = tmp_path / "a.new", tmp_path / "b.new"
    old.touch()
    young.touch()
    os.utime(old, (0, 0))
    assert spool.adopt(tmp_path) == []
    assert (old.exists(), young.exists()) == (False, True)
