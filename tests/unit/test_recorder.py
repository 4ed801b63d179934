"""Writes to a database that fails and comes back: order, newest counters, what can never be written, the end."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from hltfarm.service.registry import DatabaseError, Registry
from hltfarm.service.registry.recorder import Recorder


class Fake:
    """Stands for a registry; what is written to it is listed, unless it is broken."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.broken = False

    def put(self, text: str) -> None:
        if self.broken:
            raise DatabaseError("the disk is full")
        self.written.append(text)


def writes(text: str) -> Callable[[Any], None]:
    return lambda fake: fake.put(text)


def recorder(fake: Fake, **options: Any) -> Recorder:
    registry: Registry = fake  # type: ignore[assignment]
    return Recorder(registry, retry_s=0.01, **options)


async def written(made: Recorder) -> None:
    async with asyncio.timeout(10):
        while made.pending:
            await asyncio.sleep(0.005)


def test_a_read_sees_what_was_written_before() -> None:
    async def main() -> None:
        fake = Fake()
        made = recorder(fake)
        for i in range(5):
            made.write(f"{i}", writes(f"{i}"))
        assert await made.read(lambda _registry: list(fake.written)) == ["0", "1", "2", "3", "4"]
        await made.close()

    asyncio.run(main())


def test_nothing_is_lost_while_the_database_fails() -> None:
    async def main() -> None:
        fake = Fake()
        made = recorder(fake)
        fake.broken = True
        made.write("start", writes("start"))
        for i in range(3):
            made.write("counters", writes(f"counters {i}"), key="counters")
        made.write("end", writes("end"))
        with pytest.raises(DatabaseError, match="the disk is full"):
            await made.read(lambda registry: writes("read")(registry))
        assert made.problem == "the disk is full (3 entries wait to be written)"
        fake.broken = False
        await written(made)
        assert fake.written == ["start", "counters 2", "end"]
        assert (made.problem, made.lost) == (None, 0)
        await made.close()

    asyncio.run(main())


def test_what_can_never_be_written_does_not_hold_up_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    def impossible(_registry: Registry) -> None:
        raise ValueError("a bad entry")

    async def main() -> None:
        fake = Fake()
        made = recorder(fake)
        made.write("the impossible", impossible)
        made.write("end", writes("end"))
        await written(made)
        assert (fake.written, made.lost, made.problem) == (["end"], 1, None)
        await made.close()

    asyncio.run(main())
    assert "does not take the impossible: a bad entry" in caplog.text


def test_memory_is_bounded_and_what_is_lost_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        fake = Fake()
        fake.broken = True
        made = recorder(fake, most=2, close_s=0.05)
        for i in range(3):
            made.write(f"entry {i}", writes(f"{i}"))
        assert (made.pending, made.lost) == (2, 1)
        await made.close()

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert "lost an entry, 2 wait already: entry 2" in caplog.text
    assert "lost an entry at the end: entry 0" in caplog.text
    assert "lost an entry at the end: entry 1" in caplog.text


def test_a_database_that_does_not_answer_is_waited_for_no_longer_than_agreed() -> None:
    """A connection that is cut, a table that somebody has locked: the call neither returns nor fails."""

    async def main() -> None:
        fake, free = Fake(), threading.Event()

        def hangs(_registry: Registry) -> None:
            assert free.wait(60)
            fake.put("start")

        made = recorder(fake, answer_s=0.05, close_s=0.05)
        try:
            async with asyncio.timeout(10):
                made.write("start", hangs)
                await made.written()
                assert made.problem == "the run registry does not answer for 0.05 s (1 entries wait to be written)"
                made.write("end", writes("end"))
                await made.written()
                with pytest.raises(DatabaseError, match=r"does not answer within 0\.05 s"):
                    await made.read(lambda _registry: None)
        finally:
            free.set()
        await written(made)
        assert (fake.written, made.problem, made.lost) == (["start", "end"], None, 0), "each once, in order"
        await made.close()

    asyncio.run(main())


def test_a_database_that_does_not_answer_does_not_hold_up_the_end(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        free = threading.Event()
        made = recorder(Fake(), answer_s=0.05, close_s=0.05)
        made.write("the hanging", lambda _registry: (free.wait(60), None)[1])
        try:
            async with asyncio.timeout(10):
                await made.close()
        finally:
            free.set()

    asyncio.run(main())
    assert "lost an entry at the end: the hanging" in caplog.text
