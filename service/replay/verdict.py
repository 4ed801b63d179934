"""What became of a replayed event, and how that compares with the farm. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.messages import ModelInfo
from hltfarm.proto.results import RESULT
from hltfarm.proto.wire import Reason
from hltfarm.service.replay.bundle import FailedEvent, Record
from hltfarm.service.replay.link import Done, Prepared


class Ending(StrEnum):
    """How the replay of an event ended."""

    RECONSTRUCTED = "reconstructed"
    NOT_REPRODUCIBLE = "not reproducible"
    RAISED = "raised"
    CRASHED = "crashed"
    TIMED_OUT = "timed out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A reconstruction that did not come back with a result. `text`: the error or the signal; `detail`: traceback, or last words."""

    ending: Ending
    text: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One event. `results`: of the times that it was reconstructed, up to the one that failed, if one did."""

    event: FailedEvent
    ending: Ending
    text: str
    detail: str = ""
    results: NDArray[np.void]
    seconds: tuple[float, ...]

    @property
    def good(self) -> bool:
        return self.ending is Ending.RECONSTRUCTED


def judge(event: FailedEvent, times: Sequence[Done | Failed]) -> Verdict:
    """The verdict on an event from what became of it each time, at least once; a failure is the last."""
    done = [one for one in times if isinstance(one, Done)]
    results = np.frombuffer(b"".join(one.result for one in done), dtype=RESULT)
    seconds = tuple(one.seconds for one in done)
    last = times[-1]
    if isinstance(last, Failed):
        return Verdict(event=event, ending=last.ending, text=last.text, detail=last.detail, results=results, seconds=seconds)
    differing = [name for name in RESULT.names or () if any(one[name].tobytes() != results[0][name].tobytes() for one in results[1:])]
    if differing:
        return Verdict(
            event=event,
            ending=Ending.NOT_REPRODUCIBLE,
            text=f"{len(done)} reconstructions differ in {', '.join(differing)}",
            results=results,
            seconds=seconds,
        )
    return Verdict(event=event, ending=Ending.RECONSTRUCTED, text="", results=results, seconds=seconds)


def compared(verdict: Verdict, reason: str) -> str:
    """A failure beside those that the farm recorded; empty where it did not fail here."""
    if verdict.good:
        return ""
    if not verdict.event.failures:
        return "the farm recorded no failure"
    if verdict.ending is Ending.RAISED:
        seen = any(failure.error == verdict.text for failure in verdict.event.failures)
    else:
        seen = verdict.ending is not Ending.NOT_REPRODUCIBLE and reason == Reason.WORKER_LOST.name
    return "as in the farm" if seen else "not what the farm recorded"


def differences(record: Record, here: Prepared) -> list[str]:
    """What would decide here and did not in the farm; what the bundle does not say is not compared."""
    found = []
    if record.menu_hash and record.menu_hash != here.menu_hash:
        found.append(f"menu {here.menu_hash}, the bundle has {record.menu_hash}")
    if record.menu_hash and _decisive(record.models) != _decisive(here.models):
        found.append(f"models {models_text(here.models)}, the bundle has {models_text(record.models)}")
    if record.conditions and record.conditions != here.conditions:
        found.append(f"conditions {here.conditions}, the bundle has {record.conditions}")
    return found


def _decisive(models: Sequence[ModelInfo]) -> list[tuple[str, str, str, str]]:
    return [(model.target, model.hash, model.working_point, model.engine) for model in models]


def models_text(models: Sequence[ModelInfo]) -> str:
    """Models with all that decides, in words."""
    texts = (f"{model.label}{f' at {model.working_point}' if model.working_point else ''} ({model.engine})" for model in models)
    return ", ".join(texts) or "none"


def cautions(record: Record, here: Prepared, versions: Mapping[str, str]) -> list[str]:
    """What is not the same as in the farm and may matter: versions, backends; and what the bundle does not say."""
    found = []
    if not record.menu_hash:
        found.append("no worker had built what decides when the bundle was written: menu, models and conditions cannot be compared")
    changed = [name for name in sorted({*record.versions, *versions}) if record.versions.get(name) != versions.get(name)]
    found += [
        f"{name} {versions.get(name, 'is not here')}, in the farm {record.versions.get(name, 'it was not there')}" for name in changed
    ]
    backends = {str(f.where["backend"]) for event in record.events for f in event.failures if f.where.get("backend")}
    if backends and here.backend not in backends:
        found.append(f"replayed on {here.backend} ({here.device}), the farm failed on {', '.join(sorted(backends))}")
    return found
