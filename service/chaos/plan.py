"""What goes wrong, and when: drawn from a seed. Pure; times are seconds since the start of the load."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

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


#: In how many ways a fault is made; one is drawn for each injection.
MANNERS: dict[Fault, tuple[str, ...]] = {
    Fault.CORRUPT: ("frames", "payloads", "bytes"),
    Fault.PARTITION: ("stall", "drop"),
    Fault.PARTITION_WORKERS: ("stall", "drop"),
    Fault.POISON: ("fail", "die", "hang"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Patience of the farm and of its clients in seconds; shorter than a real farm's, so that a fault and its end fit into a short load.

    Too low calls the workers of a busy machine dead.
    """

    worker_timeout_s: float = 3.0  # silence after which a worker is lost
    batch_timeout_s: float = 2.0  # a batch that takes longer hangs
    hang_s: float = 3.0  # a worker that was given up for this ends then
    silence_s: float = 2.5  # a client connects anew after so long without a sign of life


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """One fault.

    manner: of MANNERS. target: which worker or ingest, to be taken modulo their number. seconds: how long it lasts, 0 for what is over at
    once. count: batches or events concerned.
    """

    at_s: float
    manner: str
    target: int
    seconds: float
    count: int
    seed: int


def faults(names: list[str]) -> list[Fault]:
    """Faults by name, each once; `all` are all of them. Raises ConfigError for an unknown name."""
    if "all" in names:
        return list(Fault)
    unknown = [name for name in names if name not in list(Fault)]
    if unknown:
        raise ConfigError(f"fault {unknown[0]!r}: choose {', '.join(Fault)}, or all")
    return [Fault(name) for name in dict.fromkeys(names)]


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
    if fault is Fault.KILL_CONTROL:
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
            at_s=FIRST * duration_s + part * index + draw.uniform(0.0, max(0.0, part - longest) if number > 1 else part),
            manner=draw.choice(MANNERS.get(fault, ("",))),
            target=draw.randrange(1 << 16),
            seconds=draw.uniform(shortest, longest),
            count=draw.randint(1, 3),
            seed=draw.randrange(1 << 32),
        )
        for index in range(number)
    )
