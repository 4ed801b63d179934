"""Watches a farm's status from a thread of its own: the books have to close at every moment, not only at the end."""

from __future__ import annotations

import threading
from collections import Counter
from types import TracebackType
from typing import Self

from hltfarm.service.api import FarmApi, FarmError

INTERVAL_S = 0.1


class Watcher:
    """Looks at the status a few times a second until `close`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._end = threading.Event()
        self.mismatches: Counter[int] = Counter()  #: of the farm's ledger and those of its ingests, largest amount of each status
        self.problems: Counter[str] = Counter()  #: that the farm told of
        self.unreachable = 0  #: looks that got no answer
        self._thread = threading.Thread(target=self._watch, name="watch")
        self._thread.start()

    def _watch(self) -> None:
        with FarmApi(self._url, timeout_s=2.0) as api:
            while not self._end.wait(INTERVAL_S):
                try:
                    status = api.status()
                except FarmError:
                    self.unreachable += 1
                    continue
                ledgers = [status["ledger"], status["totals"], *(ingest["ledger"] for ingest in status["ingests"])]
                known = [abs(ledger["mismatch"]) for ledger in ledgers if ledger is not None]
                if known:
                    self.mismatches[max(known)] += 1
                self.problems.update(status["problems"])

    def close(self) -> None:
        """End the thread."""
        self._end.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
