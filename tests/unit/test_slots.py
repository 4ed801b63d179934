"""The slot ring: one writer, many readers, memory that follows the load, no file left behind."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys

import numpy as np
import pytest

from hltfarm.proto.errors import ConfigError, LimitError
from hltfarm.proto.slots import SlotView
from hltfarm.service.ingest.slots import SlotRing


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ring"


def test_what_is_put_is_read_through_another_mapping(path):
    with SlotRing(path, 4, 4096) as ring, SlotView(path, 4, ring.slot_bytes) as view:
        slot = ring.put(b"abcd")
        assert bytes(view.payload(slot, 4)) == b"abcd"
        assert not view.payload(slot, 4).flags.writeable
    assert not path.exists()


def test_freed_slots_are_used_again_last_in_first_out(path):
    with SlotRing(path, 4, 4096) as ring:
        slots = [ring.put(b"x") for _ in range(3)]
        assert ring.free == 1
        ring.release([slots[1]])
        assert ring.put(b"y") == slots[1]


def test_pages_are_touched_when_they_are_used(path):
    with SlotRing(path, 64, 1 << 20) as ring:
        assert path.stat().st_blocks == 0
        for _ in range(20):
            ring.release([ring.put(bytes(8192))])
        assert path.stat().st_blocks * 512 <= 16384


def test_a_full_ring_and_a_large_payload_are_limit_errors(path):
    with SlotRing(path, 1, 4096) as ring:
        with pytest.raises(LimitError, match="4097"):
            ring.put(bytes(4097))
        ring.put(bytes(4096))
        with pytest.raises(LimitError, match="in use"):
            ring.put(b"")


def test_a_ring_larger_than_the_file_system_is_refused_in_words(path):
    free = os.statvfs(path.parent)
    with pytest.raises(ConfigError, match="--shm-size"):
        SlotRing(path, free.f_blocks + 1, free.f_frsize)
    assert not path.exists()


def test_a_missing_or_foreign_ring_is_a_config_error(path):
    with pytest.raises(ConfigError, match="share /dev/shm"):
        SlotView(path, 1, 4096)
    path.write_bytes(b"x")
    with pytest.raises(ConfigError, match="not a ring"):
        SlotView(path, 1, 4096)


def test_a_ring_left_by_a_killed_ingest_is_replaced(path):
    path.write_bytes(b"old")
    with SlotRing(path, 1, 4096) as ring:
        assert not np.any(ring.payload(0, 4096))


def test_the_ring_of_an_ingest_that_runs_is_not_taken_from_it(path):
    with SlotRing(path, 4, 4096) as ring:
        slot = ring.put(b"mine")
        with pytest.raises(ConfigError, match="belongs to another ingest"):
            SlotRing(path, 4, 4096)
        with SlotView(path, 4, ring.slot_bytes) as view:
            assert bytes(view.payload(slot, 4)) == b"mine"


def test_the_ring_of_an_ingest_that_was_killed_is_replaced(path):
    text = (
        "import os, sys; from pathlib import Path; "
        "from hltfarm.service.ingest.slots import SlotRing; SlotRing(Path(sys.argv[1]), 4, 4096); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", text, path], check=False).returncode == 9
    before = path.stat().st_ino
    with SlotRing(path, 2, 4096) as ring:
        assert (path.stat().st_ino, path.stat().st_size) != (before, 4 * 4096)
        assert ring.free == 2


def test_a_path_that_is_no_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="--ring"):
        SlotRing(tmp_path, 4, 4096)


@pytest.mark.parametrize("left_over", [True, False], ids=["while it removes an old ring", "before it has locked its own"])
def test_of_two_ingests_that_start_at_a_time_one_has_the_ring(path, monkeypatch, left_over):
    others, lock = [], fcntl.flock

    def meanwhile(descriptor, operation):
        monkeypatch.setattr(fcntl, "flock", lock)
        others.append(SlotRing(path, 4, 4096))
        return lock(descriptor, operation)

    if left_over:
        path.write_bytes(b"old")
    monkeypatch.setattr(fcntl, "flock", meanwhile)
    with pytest.raises(ConfigError, match="another ingest"):
        SlotRing(path, 4, 4096)
    (other,) = others
    with other, SlotView(path, 4, other.slot_bytes) as view:
        slot = other.put(b"mine")
        assert bytes(view.payload(slot, 4)) == b"mine"
    assert not path.exists()


def test_no_file_is_left_by_a_ring_that_cannot_be_had(path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "ftruncate", full)
    with pytest.raises(OSError, match="No space"):
        SlotRing(path, 4, 4096)
    assert not path.exists()
