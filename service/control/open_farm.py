"""The link to a farm whose ingests come and go: found by name, or fixed; those that leave in order are missed by nobody."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from hltfarm.proto.messages import RunConfig
from hltfarm.service.control.discovery import LookupFailedError, Resolve, resolve
from hltfarm.service.control.link import FarmLink, FarmView, IngestLink
from hltfarm.service.control.membership import Membership
from hltfarm.service.security.keys import ClientCurve

log = logging.getLogger(__name__)
LOOKUP_S = 5.0  # between two questions to the name service


class OpenFarmLink(FarmLink):
    """All ingests of a farm: the endpoints that are given, and those under `names` (see `discovery`), which are asked again and again.

    forget_s: silence after which an ingest found by name does not belong to the farm. clock: monotonic seconds.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        timeout_s: float,
        curve: ClientCurve | None = None,
        *,
        names: Sequence[str] = (),
        forget_s: float = 30.0,
        resolving: Resolve = resolve,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(endpoints, timeout_s, curve)
        self._names, self._resolve, self._clock = tuple(names), resolving, clock
        self._membership = Membership(endpoints, max(forget_s, 2 * timeout_s))  # one answer that came too late is no absence
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._lookup: asyncio.Task[None] | None = None
        self._looked_up = float("-inf")

    async def look(self) -> FarmView:
        """See `Link.look`. Only members are waited for; who may become one is asked beside."""
        await self._refresh()
        members = set(self._membership.members(self._clock()))
        views = await asyncio.gather(*(self.ask(link) for link in self._links if link.endpoint in members))
        self._ask_candidates()
        return self._membership.view(views, self._clock())

    def addressed(self) -> Sequence[IngestLink]:
        """To whom commands for all ingests go: the members, but for those that are about to leave."""
        members = set(self._membership.addressed(self._clock()))
        return [link for link in self._links if link.endpoint in members]

    async def command(self, op: str, config: RunConfig | None = None) -> FarmView:
        """See `Link.command`."""
        await super().command(op, config)
        return await self.look()

    # -- who belongs to it -------------------------------------------------------------------------------------------------

    async def _refresh(self) -> None:
        now = self._clock()
        if self._names and now - self._looked_up >= LOOKUP_S and (self._lookup is None or self._lookup.done()):
            first, self._looked_up = self._lookup is None, now
            self._lookup = asyncio.create_task(self._look_up(), name="look up the ingests")
            if first:
                await asyncio.shield(self._lookup)
        known = self._membership.known
        gone = [link for link in self._links if link.endpoint not in known]
        self._links = [link for link in self._links if link not in gone]  # at once: there are other looks
        self._links += [self._connected(endpoint) for endpoint in sorted(known - {link.endpoint for link in self._links})]
        for link in gone:
            if (probe := self._probes.pop(link.endpoint, None)) is not None:
                probe.cancel()
            await link.close()

    async def _look_up(self) -> None:
        try:
            answers = await asyncio.gather(*(self._resolve(name) for name in self._names))
        except LookupFailedError as error:
            if self._membership.trouble is None:
                log.warning("%s; the ingests that are known remain", error)
            self._membership.trouble = str(error)
            return
        self._membership.trouble, found = None, frozenset[str]().union(*answers)
        if fresh := found - self._membership.known:
            log.info("found %d ingests by name", len(fresh), extra={"ingests": sorted(fresh)})
        self._membership.named(found, self._clock())

    def _ask_candidates(self) -> None:
        candidates = set(self._membership.candidates(self._clock()))
        for link in self._links:
            probe = self._probes.get(link.endpoint)
            if link.endpoint in candidates and (probe is None or probe.done()):
                self._probes[link.endpoint] = asyncio.create_task(self._probe(link), name=f"ask {link.endpoint}")

    async def _probe(self, link: IngestLink) -> None:
        view = await self.ask(link)
        if view.snapshot is not None:
            self._membership.answered(link.endpoint, view.snapshot, self._clock())

    async def close(self) -> None:
        """Close every socket and the context, and end what goes on beside."""
        tasks = [*self._probes.values(), *([self._lookup] if self._lookup is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await super().close()
