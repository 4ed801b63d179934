"""The control plane's HTTP application."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI

from hltfarm.service.control import (
    access_routes,
    api_page,
    audit,
    event_routes,
    exchange_routes,
    health,
    live_routes,
    menus,
    model_uploads,
    outputs,
    problems,
    runs,
    schema,
    scrape,
    served_models,
    workers,
)
from hltfarm.service.control.access import Access
from hltfarm.service.control.console import STATIC, Console
from hltfarm.service.control.context import Context, Processes, control_numbers
from hltfarm.service.control.display import Display
from hltfarm.service.control.exchange import Exchange
from hltfarm.service.control.farm import FarmControl
from hltfarm.service.control.history import History
from hltfarm.service.control.library import Library
from hltfarm.service.control.link import Link
from hltfarm.service.control.metrics import MetricsInput, registry_of
from hltfarm.service.control.settings import ControlSettings
from hltfarm.service.model_store import ModelStore
from hltfarm.service.registry import Registry
from hltfarm.service.security.tokens import TokensFile

DESCRIPTION = """Run control, status, health and metrics of a trigger farm.

Commands that take time (configure, drain, stop) answer 202 with a transition to poll; a command that the state does not allow
answers 409 with the commands that it does. Errors are `application/problem+json`. A farm with tokens wants one with every request
(`Authorization: Bearer TOKEN`); `x-role` of an operation says which role it needs.
"""


def create_app(
    settings: ControlSettings,
    link: Link,
    registry: Registry | None = None,
    supervisor: Processes | None = None,
    clock: Callable[[], float] = time.monotonic,
    monitor_ended: Callable[[BaseException | None], None] | None = None,
    static: Path = STATIC,
    display: Display | None = None,
) -> FastAPI:
    """The application for one farm. It closes `link` at its end, and the registry if it opened it itself (from `settings.database`).

    `supervisor`: runs this machine's processes, None where containers do. `clock`: monotonic seconds.
    `monitor_ended`: called with its fault if the monitor of the farm ends before the application does; what is shown is old from then on.
    `static`: folder of the web console. `display`: reconstructs events that are shown; the application closes it.
    Raises ConfigError if the tokens file of the settings cannot be used.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        runs_registry = registry or Registry(settings.database, time.time, settings.farm)
        farm = FarmControl(settings, link, runs_registry, clock)
        history = History(time.time)
        farm.followers.append(history)
        watch = asyncio.create_task(farm.watch(), name="watch the farm")
        if monitor_ended is not None:
            watch.add_done_callback(lambda done: None if done.cancelled() else monitor_ended(done.exception()))
        library = Library(farm, ModelStore(settings.models) if settings.models is not None else None)
        exchange, shows = Exchange(farm), display or Display()
        context = Context(
            farm=farm,
            library=library,
            exchange=exchange,
            history=history,
            link=link,
            display=shows,
            version=version("hltfarm"),
            supervisor=supervisor,
            watching=lambda: not watch.done(),
        )
        app.state.context = context
        numbers = partial(control_numbers, farm, time.time(), refused)
        app.state.metrics = registry_of(lambda: MetricsInput(farm.view, context.version, context.supervised(), numbers()))
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            await exchange.close()
            await shows.close()
            await link.close()
            await farm.close()
            if registry is None:
                runs_registry.close()

    refused: Counter[int] = Counter()
    app = FastAPI(
        title="hltfarm control", version=version("hltfarm"), description=DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    problems.install(app)
    for part in (
        runs,
        workers,
        outputs,
        health,
        menus,
        served_models,
        model_uploads,
        exchange_routes,
        audit,
        live_routes,
        event_routes,
        scrape,
        access_routes,
    ):
        app.include_router(part.router)
    app.include_router(api_page.router)
    console = Console(static)
    app.router.routes.append(console)
    app.state.tokens_file = TokensFile(settings.access.tokens) if settings.access.tokens is not None else None
    app.add_middleware(audit.Audit)  # behind the door, which is added after it
    app.add_middleware(Access, settings=settings.access, file=app.state.tokens_file, refused=refused, pages=console.has)
    schema.install(app)
    return app
