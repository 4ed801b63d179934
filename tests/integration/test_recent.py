"""The events that an ingest keeps, over real sockets, with real worker processes that run a fake reconstruction."""

from __future__ import annotations

import asyncio

import pytest

from hltfarm.proto.messages import ACCEPTED, FAILED, EventInfo, KeptEvent
from hltfarm.service.control.link import FarmLink, RefusedError, UnreachableError
from hltfarm.service.ingest.recent import PERIOD_NS
from tests.integration.ingest_farm import DEADLINE_S, RUN, Farm, payload, stream


def asked(farm: Farm, op: str, kind: str = "", limit: int = 100) -> list[EventInfo]:
    async def ask() -> list[tuple[str, EventInfo]]:
        link = FarmLink([farm.server.control_url], DEADLINE_S)
        try:
            return await link.recent(op, kind, limit)
        finally:
            await link.close()

    found = asyncio.run(ask())
    assert {endpoint for endpoint, _ in found} <= {farm.server.control_url}
    return [info for _, info in found]


def fetched(farm: Farm, event_id: str) -> tuple[str, KeptEvent, bytes] | None:
    async def ask() -> tuple[str, KeptEvent, bytes] | None:
        link = FarmLink([farm.server.control_url, "ipc:///tmp/hltfarm-no-such-ingest"], 0.5)
        try:
            return await link.recent_event(event_id)
        finally:
            await link.close()

    return asyncio.run(ask())


def test_accepted_events_are_kept_a_few_a_second(farm: Farm) -> None:
    farm.run(workers=2)
    recent = farm.server._recent
    begin = farm.server._now
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        stream(client, range(3000))
    seconds = farm.server._now - begin
    found = asked(farm, "events", ACCEPTED)
    assert 1 <= len(found) == recent.copies <= seconds * 1e9 / PERIOD_NS + 1, "whatever the rate"
    for info in found:
        assert (info.kind, info.run, info.lumi, info.bx, info.attempts) == (ACCEPTED, RUN, 1, 3, 1)
        assert info.event % 2 == 1, "rejected ones are not kept"
        assert (info.paths, info.streams, info.digest) == (("odd",), ("physics",), f"{info.event:016x}")
        assert info.worker in ("w0", "w1")
        assert info.size_bytes == len(payload(0))
    assert [info.decided_at for info in found] == sorted((info.decided_at for info in found), reverse=True)
    kept = fetched(farm, found[0].id)
    assert kept is not None, "an ingest that does not answer does not hide what another has"
    endpoint, event, raw = kept
    assert (endpoint, event.info, event.menu_hash, event.config.run) == (farm.server.control_url, found[0], "c0ffee", RUN)
    assert raw == payload(found[0].event).tobytes(), "the slot was used for other events since"
    assert fetched(farm, "nothing-1") is None


def test_failed_events_are_told_with_what_is_known_of_them(farm: Farm) -> None:
    farm.run(workers=4, kill=[50], delay_s=0.002, **{"raise": [60]})
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        stream(client, range(100))
    found = {info.event: info for info in asked(farm, "events", FAILED)}
    assert found.keys() == {50, 60}
    assert {info.event: info for info in asked(farm, "failures")} == found
    raised, killed = found[60], found[50]
    assert (raised.reason, killed.reason) == ("WORKER_FAILED", "WORKER_LOST")
    assert raised.error == "ValueError: poison [60]"
    assert raised.worker.startswith("w")
    assert raised.attempts >= 2
    assert (farm.folder / "errors" / raised.bundle / "bundle.json").is_file()
    kept = fetched(farm, killed.id)
    assert kept is not None
    assert kept[2] == payload(50).tobytes()


def test_questions_that_make_no_sense_are_refused_and_a_dead_ingest_is_named(farm: Farm) -> None:
    with pytest.raises(RefusedError, match="kind 'rejected'"):
        asked(farm, "events", "rejected")

    async def nobody() -> None:
        link = FarmLink(["ipc:///tmp/hltfarm-no-such-ingest"], 0.1)
        try:
            await link.recent("events", "", 1)
        finally:
            await link.close()

    with pytest.raises(UnreachableError, match="no-such-ingest"):
        asyncio.run(nobody())
