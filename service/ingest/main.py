"""Role `ingest`: one ingest process, until it is told to end."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

from hltfarm.proto.messages import RunState
from hltfarm.proto.status_file import StatusFile
from hltfarm.service.ingest.memory import keep_payload_memory
from hltfarm.service.ingest.sample_writer import write_sample
from hltfarm.service.ingest.server import IngestServer
from hltfarm.service.ingest.settings import IngestSettings

log = logging.getLogger(__name__)
#: The thread that writes the output needs the interpreter now and then; with Python's 5 ms each of its turns would hold all events up.
SWITCH_S = 0.0005
TELL_S = 5.0  # a control plane looks every half second, on a busy machine less often; it is to see the closed books before they are gone


def run_ingest(settings: IngestSettings, *, started: Callable[[IngestServer], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then end the run (what cannot be decided in time goes to the error stream), show the books and return.

    A second signal ends at once; clients still have what was not decided. Call it from the main thread.
    started: called once, when the sockets are bound. Raises ConfigError for settings that cannot work here.
    """
    signals = 0
    status = None if settings.status is None else StatusFile(settings.status, "ingest")

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal signals
        signals += 1

    keep_payload_memory()
    sys.setswitchinterval(SWITCH_S)
    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with IngestServer(settings, write_sample) as server:
            log.info("clients at %s, workers at %s, control at %s", server.clients_url, server.workers_url, server.control_url)
            if started is not None:
                started(server)

            def turn() -> None:
                server.turn()
                if status is not None:
                    status.tell(server.health)

            while not signals:
                turn()
            server.stop()
            deadline = time.monotonic() + settings.stop_timeout_s + settings.confirm_timeout_s + 1.0
            while signals == 1 and server.state is RunState.DRAINING and time.monotonic() < deadline:
                turn()
            deadline = time.monotonic() + TELL_S
            while signals == 1 and server.untold and time.monotonic() < deadline:
                turn()
    finally:
        if status is not None:
            status.remove()
        for number, handler in previous.items():
            signal.signal(number, handler)
