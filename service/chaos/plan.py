"""What goes wrong, and when: drawn from a seed. Pure; times are seconds since the start of the load."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias

from hltfarm.proto.errors import ConfigError

#: Injections lie in this part of the load: what comes before tells the former rate, what comes after the recovery.
FIRST, LAST = 0.2, 0.6
MOST = 3  # injections of a round: fewer exits than quarantine a worker
SHORTEST_S = 2.0


class Fault(StrEnum):
    """The faults of `hltfarm chaos`."""

    KILL = "kill"
    KILL_INGEST = "kill-ingest"
    KILL_CONTROL = "kill-control"
    STOP = "stop"
    HANG = "hang"
    OOM = "oom"
    SLOW = "slow"
    CORRUPT = "corrupt"
    DISK_FULL = "disk-full"
    PARTITION = "partition"
    PARTITION_WORKERS = "partition-workers"
    POISON = "poison"
    SWAP = "swap"


#: In how many ways a fault is made; one is drawn for each injection.
MANNERS: dict[Fault, tuple[str, ...]] = {
    Fault.DISK_FULL: ("errors", "output"),
    Fault.CORRUPT: ("frames", "payloads", "bytes"),
    Fault.PARTITION: ("stall", "drop"),
    Fault.PARTITION_WORKERS: ("stall", "drop"),
    Fault.POISON: ("fail", "die", "hang"),
    Fault.SWAP: ("menu", "model"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Patience of the farm and of its clients in seconds; shorter than a real farm's, so that a fault and its end fit into a short load.

    Too low calls the workers of a busy machine dead, and its honest batches hung.
    """

    worker_timeout_s: float = 3.0  # silence after which a worker is lost
    batch_timeout_s: float = 4.0  # a batch that takes longer hangs
    hang_s: float = 5.0  # a worker that was given up for this ends then
    silence_s: float = 2.5  # a client connects anew after so long without a sign of life


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """One fault. fault: which.

    manner: of MANNERS. target: which worker or ingest, to be taken modulo their number. seconds: how long it lasts, 0 for what is over at
    once. count: batches or events concerned.
    """

    fault: Fault
    at_s: float
    manner: str
    target: int
    seconds: float
    count: int
    seed: int


#: Faults that strike at the same moment.
Together: TypeAlias = tuple[Fault, ...]
#: Those that `all` has beside the single ones.
PAIRS: tuple[Together, ...] = ((Fault.KILL, Fault.PARTITION), (Fault.KILL_INGEST, Fault.KILL_CONTROL))
#: Faults for which the control plane has to be a process of its own; the others are put into `hltfarm serve`.
OF_ROLES = frozenset({Fault.KILL_CONTROL, Fault.PARTITION_WORKERS})
#: Faults that need somebody who starts again what ends by itself, or a control plane that answers all the time: not together with those.
OF_SERVE = frozenset({Fault.HANG, Fault.POISON, Fault.DISK_FULL, Fault.SWAP})


def faults(names: list[str]) -> list[Together]:
    """Faults by name, each once, those joined by `+` together; `all` are all of them. Raises ConfigError for what cannot be."""
    if "all" in names:
        return [*((fault,) for fault in Fault), *PAIRS]
    found = []
    for name in dict.fromkeys(names):
        unknown = [part for part in name.split("+") if part not in list(Fault)]
        if unknown:
            raise ConfigError(f"fault {unknown[0]!r}: choose {', '.join(Fault)}, two of them joined by +, or all")
        chosen = tuple(Fault(part) for part in name.split("+"))
        if len(set(chosen)) < len(chosen) or (OF_ROLES & set(chosen) and OF_SERVE & set(chosen)):
            apart = f"{', '.join(sorted(OF_SERVE))} are not made with {', '.join(sorted(OF_ROLES))}, and none with itself"
            raise ConfigError(f"fault {name!r}: these do not go together; {apart}")
        found.append(chosen)
    return found


def title(together: Together) -> str:
    """Name of faults that strike together."""
    return "+".join(together)


def lasting(fault: Fault, timing: Timing) -> tuple[float, float]:
    """Shortest and longest time that an injection lasts."""
    if fault is Fault.STOP:
        return timing.worker_timeout_s + 0.5, timing.worker_timeout_s + 2.0
    if fault is Fault.PARTITION:
        return 0.5, timing.silence_s + 1.0
    if fault is Fault.PARTITION_WORKERS:
        return 0.5, timing.worker_timeout_s + 1.0
    if fault in (Fault.SLOW, Fault.DISK_FULL, Fault.CORRUPT):
        return 1.5, 3.0
    if fault in (Fault.KILL_CONTROL, Fault.SWAP):
        return 0.0, 1.0
    return 0.0, 0.0


def injections(fault: Fault, seed: int, duration_s: float, timing: Timing) -> tuple[Injection, ...]:
    """The injections of a round: as many as fit one after the other, MOST of them at most. Raises ConfigError for too short a load."""
    if duration_s < SHORTEST_S:
        raise ConfigError(f"--duration {duration_s:g}: a fault and the recovery from it need {SHORTEST_S:g} s at least")
    draw = random.Random(f"{fault}:{seed}")
    shortest, longest = lasting(fault, timing)
    window = (LAST - FIRST) * duration_s
    number = min(MOST, max(1, int(window / (longest + (6.0 if fault is Fault.POISON else 3.0)))))  # a poison takes several workers along
    part = window / number
    return tuple(
        Injection(
            fault=fault,
            at_s=FIRST * duration_s + part * index + draw.uniform(0.0, max(0.0, part - longest) if number > 1 else part),
            manner=draw.choice(MANNERS.get(fault, ("",))),
            target=draw.randrange(1 << 16),
            seconds=draw.uniform(shortest, longest),
            count=draw.randint(1, 3),
            seed=draw.randrange(1 << 32),
        )
        for index in range(number)
    )


def together(faults: Together, seed: int, duration_s: float, timing: Timing) -> tuple[tuple[Injection, ...], ...]:
    """The injections of each of these faults; those with the same place strike at the same moment."""
    plans = [injections(fault, seed, duration_s, timing) for fault in faults]
    shortest = min(plans, key=len)  # its faults last longest: the others fit between them
    return tuple(tuple(replace(item, at_s=first.at_s) for first, item in zip(shortest, plan, strict=False)) for plan in plans)
