"""Ingests that come to a farm that is configured and has not started its run yet: they get its configuration."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hltfarm.proto.errors import HltfarmError
from hltfarm.proto.messages import RunConfig, RunState
from hltfarm.service.control.link import FarmView
from hltfarm.service.control.merge import leaving

if TYPE_CHECKING:
    from hltfarm.service.control.farm import FarmControl

log = logging.getLogger(__name__)


def unconfigured(view: FarmView, config: RunConfig) -> list[str]:
    """Endpoints of ingests that are Halted, where others are Configured for this run."""
    parts = [(ingest.endpoint, ingest.snapshot) for ingest in view.ingests if ingest.snapshot is not None]
    if not any(part.state is RunState.CONFIGURED and part.run == config.run for _, part in parts):
        return []
    return [endpoint for endpoint, part in parts if part.state is RunState.HALTED and not leaving(part)]


async def configure_newcomers(farm: FarmControl, view: FarmView) -> None:
    """Tell them; what cannot be told is tried again at the next look. Takes the farm's commands."""
    if not _wanted(farm, view):
        return
    async with farm.commands:
        view, config = await farm.look(), farm.config
        for endpoint in _wanted(farm, view):
            try:
                await farm.tell(endpoint, "configure", config)
            except HltfarmError as error:
                log.warning("ingest %s cannot be configured yet: %s", endpoint, error)
            else:
                log.info("ingest %s came later and was configured", endpoint)


def _wanted(farm: FarmControl, view: FarmView) -> list[str]:
    config, orders = farm.config, farm.orders
    if config is None or farm.open_run is not None or (orders.op == "reset" and orders.run == config.run):
        return []
    return unconfigured(view, config)
