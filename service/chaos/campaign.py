"""All rounds that were asked for: a farm for each fault, which takes its rounds one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hltfarm.proto.errors import HltfarmError
from hltfarm.service.chaos.farm import FarmSettings, chaos_farm
from hltfarm.service.chaos.leftovers import Own
from hltfarm.service.chaos.plan import Fault, injections
from hltfarm.service.chaos.round import OF_ROLES, LoadSettings, RoundResult, failed, run_round, warm_up


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """Faults, with how many rounds of each, from which seed on. farm: its folder gets one for each fault."""

    faults: Sequence[Fault]
    seed: int
    repeat: int
    farm: FarmSettings
    load: LoadSettings

    def check(self) -> None:
        """Raises ConfigError for a load that is too short for faults."""
        for fault in self.faults:
            injections(fault, self.seed, self.load.duration_s, self.farm.timing)


def settings_of(fault: Fault, base: FarmSettings, folder: Path) -> FarmSettings:
    """The farm that a fault needs."""
    ingests = max(2, base.ingests) if fault is Fault.KILL_INGEST else 1 if fault in OF_ROLES else base.ingests
    return replace(base, folder=folder, ingests=ingests, proxied=fault is Fault.PARTITION, small_disk=fault is Fault.DISK_FULL)


def run_campaign(campaign: Campaign, say: Callable[[str], None], left: list[str]) -> Iterator[RoundResult]:
    """Every round, one after the other; what farms leave behind goes to `left`. Call it from the main thread."""
    own: Own | None = None
    for fault in campaign.faults:
        settings, behind = settings_of(fault, campaign.farm, campaign.farm.folder / fault), list[str]()
        seeds = range(campaign.seed, campaign.seed + campaign.repeat)
        done = 0
        say(f"{fault}: starting a farm")
        try:
            with chaos_farm(settings, fault in OF_ROLES, behind) as farm:
                warm_up(farm, campaign.load)
                for seed in seeds:
                    say(f"{fault}: seed {seed}")
                    result = run_round(farm, fault, seed, campaign.load)
                    done += 1
                    yield result
        except HltfarmError as error:
            for seed in seeds[done:]:
                yield failed(fault, seed, error)
        left += [f"{fault}: {item}" for item in behind]
        if own is None:
            own = Own.now()  # what libraries keep from their first use on is no leak
        else:
            left += [f"{fault}: {item}" for item in own.left()]
