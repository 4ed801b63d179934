"""A source that speaks the site's own format, through a real ingest: the worker sees FED tables, the books close, the rest is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.errors import WireCode
from hltfarm.proto.events import EventId, RawEvent
from tests.integration.ingest_farm import DEADLINE_S, RUN, Farm, event, payload

OWN = 200


def to_fed_table(given: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The site's format of this test: the number of the event, which its table carries as its last word."""
    if len(given) != 4:
        raise ValueError(f"{len(given)} bytes, expected 4")
    return payload(int(given.view("<u4")[0]))


def test_a_source_with_words_of_its_own(make_farm: Callable[..., Farm]) -> None:
    farm = make_farm(payload_formats={OWN: to_fed_table})
    farm.run()
    with farm.client(payload_format=OWN) as own, farm.client() as plain:
        own.wait_open(DEADLINE_S)
        plain.wait_open(DEADLINE_S)
        for number in range(20):
            own.send(RawEvent(EventId(RUN, 1, number, 3), np.frombuffer(number.to_bytes(4, "little"), np.uint8)), timeout=DEADLINE_S)
            plain.send(event(100 + number), timeout=DEADLINE_S)
        own.send(RawEvent(EventId(RUN, 1, 50, 3), np.zeros(8, np.uint8)), timeout=DEADLINE_S)
        decided, tables = own.flush(DEADLINE_S), plain.flush(DEADLINE_S)
        assert [(refused.id.event, refused.code) for refused in own.refused] == [(50, WireCode.MALFORMED_PAYLOAD)]
        assert "8 bytes, expected 4" in own.refused[0].text
    assert {d.id.event: d.digest for d in decided} == {number: number for number in range(20)}
    assert {d.id.event: d.digest for d in tables} == {number: number for number in range(100, 120)}
    ledger = farm.wait(lambda s: s.ledger.in_flight == 0).ledger
    assert (ledger.received, ledger.accepted + ledger.rejected, ledger.error) == (40, 40, 0)
