"""Events that were looked at stay for a while, within bounds."""

from __future__ import annotations

from typing import cast

from hltfarm.proto.messages import KeptEvent
from hltfarm.service.control.looked_at import Found, LookedAt


def event(size: int, endpoint: str = "ipc:///one") -> Found:
    return (endpoint, cast(KeptEvent, object()), bytes(size))


def test_the_latest_stay_and_looking_again_counts() -> None:
    looked_at = LookedAt(count=2)
    first, second, third = event(1), event(1), event(1)
    looked_at.keep("a", first)
    looked_at.keep("b", second)
    assert looked_at.get("a") is first
    looked_at.keep("c", third)
    assert (looked_at.get("a"), looked_at.get("b"), looked_at.get("c")) == (first, None, third)


def test_payloads_are_bounded_together() -> None:
    looked_at = LookedAt(count=100, total_bytes=1000)
    for i in range(50):
        looked_at.keep(f"{i}", event(300))
    assert len(looked_at) == 3
    looked_at.keep("49", event(500))
    assert looked_at.get("49") is not None
    assert looked_at.get("47") is None
    looked_at.keep("large", event(1001))
    assert len(looked_at) == 0, "one that is too large for all of it is not kept, and takes nothing else's place for ever"
    looked_at.keep("small", event(1000))
    assert looked_at.get("small") is not None
