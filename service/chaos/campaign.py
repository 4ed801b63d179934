"""All rounds that were asked for: a farm for each fault, which takes its rounds one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hltfarm.proto.errors import HltfarmError
from hltfarm.service.chaos.farm import FarmSettings, chaos_farm
from hltfarm.service.chaos.leftovers import Own
from hltfarm.service.chaos.plan import OF_ROLES, Fault, Together, title, together
from hltfarm.service.chaos.round import LoadSettings, RoundResult, failed, run_round, warm_up


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """Faults, with how many rounds of each, from which seed on. farm: its folder gets one for each fault."""

    faults: Sequence[Together]
    seed: int
    repeat: int
    farm: FarmSettings
    load: LoadSettings

    def check(self) -> None:
        """Raises ConfigError for a load that is too short for faults."""
        for faults in self.faults:
            together(faults, self.seed, self.load.duration_s, self.farm.timing)


def settings_of(faults: Together, base: FarmSettings, folder: Path) -> FarmSettings:
    """The farm that faults need."""
    # with its control plane and all of its ingests a run is over: nobody is left who knows of it
    ingests = max(2, base.ingests) if {Fault.KILL_INGEST, Fault.KILL_CONTROL} <= set(faults) else base.ingests
    return replace(base, folder=folder, ingests=ingests, proxied=Fault.PARTITION in faults, small_disk=Fault.DISK_FULL in faults)


def run_campaign(campaign: Campaign, say: Callable[[str], None], left: list[str]) -> Iterator[RoundResult]:
    """Every round, one after the other; what farms leave behind goes to `left`. Call it from the main thread."""
    own: Own | None = None
    for faults in campaign.faults:
        name = title(faults)
        settings, behind = settings_of(faults, campaign.farm, campaign.farm.folder / name), list[str]()
        seeds = range(campaign.seed, campaign.seed + campaign.repeat)
        done = 0
        say(f"{name}: starting a farm")
        try:
            with chaos_farm(settings, not OF_ROLES.isdisjoint(faults), behind) as farm:
                warm_up(farm, campaign.load)
                for seed in seeds:
                    say(f"{name}: seed {seed}")
                    result = run_round(farm, faults, seed, campaign.load)
                    done += 1
                    yield result
        except HltfarmError as error:
            for seed in seeds[done:]:
                yield failed(faults, seed, error)
        left += [f"{name}: {item}" for item in behind]
        if own is None:
            own = Own.now()  # what libraries keep from their first use on is no leak
        else:
            left += [f"{name}: {item}" for item in own.left()]
