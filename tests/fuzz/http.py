"""The HTTP API under requests that schemathesis makes from its OpenAPI document, sound and broken ones, over a real socket.

`python -m tests.fuzz.http --examples N` sends N of each kind to every operation and prints how many requests there were and what failed.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import hypothesis
import schemathesis
from hypothesis import HealthCheck
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from hltfarm.proto.messages import RunState
from hltfarm.service.control.access import AccessSettings
from hltfarm.service.control.app import create_app
from hltfarm.service.control.server import ControlServer, listen, url_of
from hltfarm.service.control.settings import ControlSettings
from tests.fuzz.parsers import SHIPPED, zipped
from tests.unit.farm_fake import ENDPOINT, FakeLink
from tests.unit.kept_events import fail, keep

TOKEN = "hlt_of_the_fuzzer"
BY_DESIGN = frozenset({502, 503, 504})  # an ingest refuses, does not answer; a reconstruction takes too long
START_S = 30.0
#: Parameters of paths that nobody could guess: sound requests use one of these, the last is of nothing.
KNOWN: dict[str, tuple[str, ...]] = {}
CHECKS = [status_code_conformance, content_type_conformance, response_headers_conformance, response_schema_conformance]


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The API of a farm with the fake ingest of the unit tests, in a thread; its URL."""
    tokens = folder / "tokens.yaml"
    tokens.write_text(f'tokens:\n  - {{name: fuzzer, role: admin, sha256: "{hashlib.sha256(TOKEN.encode()).hexdigest()}"}}\n')
    tokens.chmod(0o600)
    settings = ControlSettings(
        ingests=(ENDPOINT,),
        database=f"sqlite:///{folder}/runs.db",
        models=folder / "models",
        poll_s=0.05,
        access=AccessSettings(tokens=tokens),
        transition_timeout_s=1.0,
    )
    listening = listen("127.0.0.1:0")
    farm = FakeLink(RunState.HALTED)
    KNOWN["event_id"] = (keep(farm), fail(farm), "cafe0001-99")
    server = ControlServer(create_app(settings, farm))

    def work() -> None:
        asyncio.run(server.serve(sockets=[listening]))

    thread = threading.Thread(target=work, name="api")
    thread.start()
    try:
        yield url_of(listening)
    finally:
        server.should_exit = True
        thread.join(START_S)
        listening.close()
        assert not thread.is_alive()


def _packages() -> st.SearchStrategy[bytes]:
    """Uploads of models: a sound one, one that was tampered with, nonsense."""
    sound = zipped(SHIPPED / "track-mlp")
    cut = st.builds(lambda at, piece: sound[:at] + piece + sound[at + len(piece) :], st.integers(0, len(sound)), st.binary(max_size=64))
    return st.just(sound) | cut | st.binary(max_size=512)


def _no_fault(_context: Any, response: Any, _case: Any) -> None:
    """No 5xx but those by design."""
    if response.status_code >= 500 and response.status_code not in BY_DESIGN:
        raise AssertionError(f"server error {response.status_code}: {response.text[:300]}")


def examine(url: str, examples: int, say: Callable[[str], None] = lambda _: None) -> tuple[Counter[int], list[str]]:
    """Send so many sound and so many broken requests to every operation. Returns the answers by status, and what failed."""
    schemathesis.openapi.media_type("application/zip", _packages())
    answers: Counter[int] = Counter()
    failures: list[str] = []
    for result in schemathesis.openapi.from_url(f"{url}/openapi.json", timeout=START_S).get_all_operations():
        operation = result.ok()
        for mode in GenerationMode:
            try:
                examine_operation(operation, mode, examples, answers)
            except Unsatisfiable:
                say(f"{operation.label}: there are no {mode.value} requests")
            except (AssertionError, FailureGroup) as error:
                failures.append(f"{operation.label} ({mode.value}): {error}")
                say(failures[-1])
    return answers, failures


def examine_operation(operation: APIOperation, mode: GenerationMode, examples: int, answers: Counter[int]) -> None:
    """Send requests of one kind to one operation; raises what the first one fails with, counts the answers."""
    auth = {"Authorization": f"Bearer {TOKEN}"}
    checks = [_no_fault, *CHECKS, *([ignored_auth] if mode is GenerationMode.POSITIVE else [])]

    known = {name: cycle(values) for name, values in KNOWN.items()}

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def one(case: Case) -> None:
        for name in KNOWN.keys() & case.path_parameters.keys() if mode is GenerationMode.POSITIVE else ():
            case.path_parameters[name] = next(known[name])
        response = case.call(headers=auth)
        answers[response.status_code] += 1
        case.validate_response(response, checks=checks, headers=auth)

    one()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as url:
        answers, failures = examine(url, given.examples, lambda text: print(text, file=sys.stderr))
    print(json.dumps({"requests": answers.total(), "by_status": dict(sorted(answers.items())), "failures": len(failures)}))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
