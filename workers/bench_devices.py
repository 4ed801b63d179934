"""The chain on several GPUs of one machine: one process per GPU, as in a farm with one worker per GPU, started together."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from hltfarm.proto.errors import BackendError, HltfarmError
from hltfarm.workers.bench import LeftOut, Sample, Say, circle, of_size, opened, warm_up
from hltfarm.workers.configuration import Configuration
from hltfarm.workers.reconstruct import in_one_piece

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Phase:
    """Devices that worked at the same time, and events/s of each."""

    devices: list[str]
    rates: list[float]

    @property
    def total(self) -> float:
        return sum(self.rates)


@dataclass(frozen=True)
class Scaling:
    """One sample and batch size on 1, 2, 4 ... and all devices; the first phase is of one device."""

    sample: str
    device: str
    batch: int
    seconds: float
    phases: list[Phase]

    def scaling(self, phase: Phase) -> float:
        """Rate in sum against that of the first device alone."""
        return phase.total / self.phases[0].total


def sizes(n: int) -> list[int]:
    """Numbers of devices that are measured: powers of two below `n`, and `n`."""
    return [k for k in (1 << i for i in range(n.bit_length())) if k < n] + [n]


def visible(devices: Sequence[int], environment: str | None) -> list[str]:
    """What CUDA_VISIBLE_DEVICES must be for each device. Raises BackendError for one beyond those that `environment` leaves visible."""
    if environment is None:
        return [str(d) for d in devices]
    names = [name.strip() for name in environment.split(",") if name.strip()]
    beyond = [d for d in devices if d >= len(names)]
    if beyond:
        raise BackendError(f"there is no GPU {beyond[0]}: {VISIBLE}={environment} leaves {len(names)} of them visible")
    return [names[d] for d in devices]


def run_scaling(
    samples: Sequence[Sample], devices: Sequence[int], batches: Sequence[int], seconds: float, config: Configuration, say: Say
) -> tuple[list[Scaling], list[LeftOut]]:
    """Every sample and batch size; those that the devices have no memory for are left out. Raises BackendError for other failures."""
    done, left_out = [], []
    for sample in samples:
        for batch in sorted(set(batches)):
            say(f"{sample.name}: batches of {batch} on GPUs {', '.join(map(str, devices))}")
            try:
                done.append(run_devices(sample, devices, batch, seconds, config))
            except BackendError as error:
                if not of_size(error):
                    raise
                left_out.append(LeftOut(sample.name, "cuda", batch, str(error)))
    return done, left_out


def run_devices(
    sample: Sample, devices: Sequence[int], batch: int, seconds: float, config: Configuration, backend: str = "cuda"
) -> Scaling:
    """Measure `seconds` of work on the first 1, 2, 4 ... of the devices and on all of them; those that have no part in a phase wait.

    Raises BackendError with the device's number if one of the processes fails.
    """
    names = visible(devices, os.environ.get(VISIBLE))
    bare = replace(sample, memory=np.empty(0, np.uint8))  # events that have crossed a process border are no views of it any more
    context = multiprocessing.get_context("spawn")  # a process that has used CUDA cannot be forked
    barrier = context.Barrier(len(names))
    ends, processes = [], []
    try:
        for place, name in enumerate(names):
            mine, theirs = context.Pipe(duplex=False)
            job = (place, name, sizes(len(names)), bare, batch, seconds, config, backend, barrier, theirs)
            process = context.Process(target=_work, args=job, name=f"bench-{name}")
            process.start()
            theirs.close()
            ends.append(mine)
            processes.append(process)
        answers = _answers(ends, names)
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
            process.join()
        for end in ends:
            end.close()
    rates = [answer[1] for answer in answers]
    phases = [Phase(names[:n], [rates[place][i] for place in range(n)]) for i, n in enumerate(sizes(len(names)))]
    return Scaling(sample.name, answers[0][0], batch, seconds, phases)


def settled(sample: Sample) -> Sample:
    """The sample with its events in one block of memory of this process, which a device can page-lock."""
    memory, events = in_one_piece(sample.events)
    return replace(sample, memory=memory, events=events)


def _answers(ends: Sequence[Connection], names: Sequence[str]) -> list[tuple[str, list[float]]]:
    """(device, rates) of every process. Raises BackendError for the first one that fails, or ends without a word."""
    got: dict[int, tuple[str, list[float]]] = {}
    while len(got) < len(ends):
        waiting = {id(end): place for place, end in enumerate(ends) if place not in got}
        for ready in wait([ends[place] for place in waiting.values()]):
            place = waiting[id(ready)]
            try:
                answer: Any = ends[place].recv()
            except EOFError:
                raise BackendError(f"GPU {names[place]}: its process ended without a result; its last words are above") from None
            if isinstance(answer, str):
                raise BackendError(f"GPU {names[place]}: {answer}")
            got[place] = answer
    return [got[place] for place in range(len(ends))]


def _work(
    place: int,
    name: str,
    phases: Sequence[int],
    sample: Sample,
    batch: int,
    seconds: float,
    config: Configuration,
    backend: str,
    barrier: Any,
    end: Connection,
) -> None:
    """A process: in every phase that it belongs to, whole rounds of batches until the time is over."""
    os.environ[VISIBLE] = name  # before CUDA is touched
    try:
        sample = settled(sample)
        with opened(sample, backend, batch, 1, config) as chain:
            n = max(4 * batch, int(warm_up(chain, sample, 2 * batch) * min(0.5, seconds / 4)) // batch * batch)
            part = circle(sample, 0, n)
            rates = []
            for together in phases:
                barrier.wait()
                if place < together:
                    rounds, start = 0, time.perf_counter()
                    while (passed := time.perf_counter() - start) < seconds:
                        chain.run(part)
                        rounds += 1
                    rates.append(n * rounds / passed)
                else:
                    rates.append(0.0)
                barrier.wait()
            end.send((chain.device, rates))
    except (HltfarmError, MemoryError, OSError) as error:  # the parent ends the others, which wait at the barrier
        end.send(str(error) or type(error).__name__)
