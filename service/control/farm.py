"""The control of one farm: sequences commands, watches the ingests, keeps the run registry true.

The ingests are the authority on the state; what is kept here is their last answer. Commands are taken one at a time.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from hltfarm.proto.errors import HltfarmError, StateError
from hltfarm.proto.messages import LedgerCounts, ModelInfo, RunConfig, RunState
from hltfarm.service.control.autostart import Autostart
from hltfarm.service.control.catching_up import ShadowOrder
from hltfarm.service.control.link import FarmView, IngestView, Link, UnreachableError
from hltfarm.service.control.merge import without
from hltfarm.service.control.orders import Orders
from hltfarm.service.control.programmes import ActivationBook, current, still_needed
from hltfarm.service.control.readiness import Follower, RateMeter, Rates, Readiness
from hltfarm.service.control.restarts import IngestRestarts
from hltfarm.service.control.returning import Returning
from hltfarm.service.control.run_counters import RunCounters, complete
from hltfarm.service.control.settings import ControlSettings
from hltfarm.service.control.strays import Strays, check_one_run, closed_ledger, whole_ledger
from hltfarm.service.control.transition_records import enter, records_of
from hltfarm.service.control.transitions import LONG, Transition, Transitions
from hltfarm.service.registry import DatabaseError, Outcome, Registry, RunCounts
from hltfarm.service.registry.counters import Counters
from hltfarm.service.registry.recorder import Recorder
from hltfarm.service.runcontrol import OPEN, target
from hltfarm.workers.menu.menu import DEFAULT_MENU, Menu
from hltfarm.workers.run_models import check

log = logging.getLogger(__name__)
T = TypeVar("T")
_HELD = {RunState.PAUSED: "pause", RunState.DRAINING: "drain"}  # by which command a run came there


class FarmControl:
    """Run control, registry and monitor of the ingests behind `link`. `clock`: monotonic seconds.

    Owns neither `link` nor `registry`; `close` ends what it started itself. A database that fails is a problem of the farm, and nothing
    else: what it does not take is kept and written later.
    """

    def __init__(self, settings: ControlSettings, link: Link, registry: Registry, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.transitions = Transitions(settings.transition_timeout_s)
        self.view = FarmView(RunState.ERROR, None, tuple(IngestView(url, None, f"ingest {url}: not asked yet") for url in settings.ingests))
        self.config: RunConfig | None = None
        self.recorder = Recorder(registry)
        self.restarts = IngestRestarts()
        self._link, self._clock = link, clock
        self._readiness = Readiness(settings.progress_s)
        self._meter = RateMeter(settings.rate_window_s)
        self.followers: list[Follower] = [self._readiness, self._meter]  #: told of every look
        self.commands = asyncio.Lock()  # who holds it is the only one that gives commands
        self._looking: asyncio.Task[FarmView] | None = None
        self._seen = float("-inf")
        self._epoch = 0
        self._changed = asyncio.Event()
        self.shadow: ShadowOrder | None = None  # that the ingests of the open run are to have
        self.exchanging = False  # what is pending in the ingests belongs to an exchange on its way
        self._exchanged: RunConfig | None = None  # what was activated last
        self._needed: Sequence[RunConfig] = ()  # by ingests of the run, also by those that are away now
        self.open_run: int | None = None  # a run that the registry holds as running
        self._ending: Outcome | None = None  # what ends it, if we know
        self._doubtful: Outcome | None = None  # what may end it: nobody answered the command in time
        self._ledger: LedgerCounts | None = None  # the last one seen of the open run
        self._models: tuple[ModelInfo, ...] | None = None  # the registry has them of the open run
        self._earlier = LedgerCounts()  # totals of its ingests without it
        self._allocated: int | None = None  # a run number that was given out and not started
        self._counters: RunCounters | None = None  # of the open run
        self._activations = ActivationBook()  # of the open run
        self._counted = float("-inf")  # when they were written
        self.autostart = Autostart(self, settings.autostart)
        self._adopted, self._adopting = False, asyncio.Lock()
        self._replaced = False  # an ingest of the open run was restarted: what it had counted is gone
        self.orders = Orders()
        self.strays = Strays()
        self._late: tuple[int, Outcome, frozenset[str]] | None = None  # a run that ended without one of its ingests, its end, who had part

    # ---------------------------------------------------------------- looking

    @property
    def now(self) -> float:
        """The farm's clock, monotonic seconds."""
        return self._clock()

    @property
    def rates(self) -> Rates:
        """Averages over the last seconds."""
        return self._meter.rates()

    @property
    def problems(self) -> list[str]:
        """What is wrong with the farm, by the last look, and with the registry."""
        return self.view.problems + ([self.recorder.problem] if self.recorder.problem is not None else [])

    @property
    def deciding(self) -> RunConfig | None:
        """What decides the events of the present run, or would; None without one."""
        snapshot = self.view.snapshot
        if self.config is None or snapshot is None or snapshot.run != self.config.run:
            return None
        programme = current(snapshot)
        return self.config if programme is None else programme.config

    def in_use(self) -> list[RunConfig]:
        """Every configuration whose menu and models the present run needs, or a later one that is started would."""
        config, snapshot = self.config, self.view.snapshot
        mine = config is not None and (config.run == self.open_run or snapshot is None or snapshot.run == config.run)
        return [*([config] if mine and config is not None else []), *self._needed]

    @property
    def defaults(self) -> RunConfig:
        """What a run gets that is configured without saying: as the farm was told when it started, with what was activated since."""
        told, newest = self.settings.defaults, self._exchanged
        return told if newest is None else msgspec.structs.replace(newest, run=told.run, detector=told.detector)

    def exchanged(self, config: RunConfig) -> None:
        """This decides the open run from a lumisection on, and later runs."""
        self.config = self._exchanged = config

    def not_ready(self) -> list[str]:
        """Why the farm is not ready, by the last look; empty when it is."""
        return self._readiness.reasons(self.view, self.now)

    async def look(self, max_age_s: float = 0.0) -> FarmView:
        """The farm as its ingests describe it; a view younger than `max_age_s` is used again. A dead ingest neither hangs nor raises."""
        asked = self.now
        while asked - self._seen > max_age_s:  # a look that is under way may have begun too long ago
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look(), name="look at the farm")
            await asyncio.shield(self._looking)
        return self.view

    async def _look(self) -> FarmView:
        while True:
            epoch, began = self._epoch, self.now
            view = await self._link.look()
            if epoch == self._epoch:  # else a command overtook this look, which shows the farm as it was before
                await self._observe(view, began)
                return view

    async def _send(self, op: str, config: RunConfig | None = None) -> FarmView:
        try:
            return await self._link.command(op, config)
        finally:
            self._epoch += 1

    async def tell(self, endpoint: str, op: str, config: RunConfig | None = None, *, worker: str | None = None, reason: str = "") -> None:
        """A command to one ingest. Raises as `Link.tell`."""
        try:
            await self._link.tell(endpoint, op, config, worker, reason)
        finally:
            self._epoch += 1

    async def change_programme(
        self, endpoint: str, op: str, config: RunConfig | None = None, *, lumi: int = 0, fraction: float = 0.0
    ) -> None:
        """A command about menu and models of the run, to one ingest. Raises as `Link.change_programme`."""
        try:
            await self._link.change_programme(endpoint, op, config, lumi=lumi, fraction=fraction)
        finally:
            self._epoch += 1

    async def _observe(self, view: FarmView, began: float | None = None) -> None:
        """Take in a view; `began`: when it was asked for, now if the answer came with a command."""
        now = self.now
        if view.state is not self.view.state:
            log.info("farm is %s", view.state, extra={"was": str(self.view.state), "problems": view.problems})
        before, self.view, self._seen = self.view, view, now if began is None else began
        self.restarts.observe(view)
        for follower in self.followers:
            follower.observe(view, now)
        await self._keep_registry(view, before)
        self._needed = still_needed(view, self.open_run, self._needed)
        self.transitions.observe(view, now)
        self._keep_transitions()
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, condition: Callable[[FarmView], bool], timeout_s: float) -> bool:
        """Wait until a look at the farm fulfils `condition`; False when that took longer than `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition(await self.look()):
                    await self.next_look(self.settings.poll_s / 5)
        except TimeoutError:
            return False
        return True

    async def next_look(self, longest_s: float) -> None:
        """The next look by somebody else, or `longest_s`."""
        try:
            async with asyncio.timeout(longest_s):
                await self._changed.wait()
        except TimeoutError:
            return

    async def watch(self) -> None:
        """Look at the farm every `poll_s` (more often while a transition is pending) until cancelled; starts runs if told to."""
        returning = Returning(self)
        while True:
            view = await self.look()
            await self.autostart.see_to(view)
            await returning.see_to(view)
            interval = self.settings.poll_s / 5 if self.transitions.pending() else self.settings.poll_s
            await asyncio.sleep(interval)  # the sampling interval of the monitor, not a wait for anything

    @property
    def goes_on(self) -> bool:
        """A run is open and nobody has asked for its end."""
        return self.open_run is not None and self._ending is None

    def note_replaced(self, view: FarmView) -> None:
        """Remember, beyond this process, that an ingest of the open run lost what it had counted."""
        self._replaced = self._replaced or self.strays.lost_counts(view)
        self._note_incomplete()

    def _note_incomplete(self) -> None:
        if (run := self.open_run) is not None and self.strays.to_note(self._replaced):
            self.recorder.write(f"lost counts of run {run}", lambda registry: registry.runs.mark_incomplete(run))

    # ---------------------------------------------------------------- workers

    async def worker_command(self, op: str, name: str, reason: str = "") -> None:
        """A command about a worker, to every ingest; one that does not know the worker refuses it. Raises as `Link.worker_command`."""
        async with self.commands:
            await self._worker_command(op, name, reason)

    async def hold(self, name: str, reason: str) -> None:
        """Let a worker have no more work, on any ingest, also on those that are away now."""
        async with self.commands:
            await self._worker_command("worker_quarantine", name, reason)
            self.orders.hold(name, reason)

    async def free(self, name: str) -> None:
        """The end of `hold`."""
        async with self.commands:
            await self._worker_command("worker_release", name)
            self.orders.free(name)

    async def _worker_command(self, op: str, name: str, reason: str = "") -> None:
        try:
            await self._link.worker_command(op, name, reason=reason)
        finally:
            self._epoch += 1
        log.info("command %s", op, extra={"worker": name, "reason": reason})

    # ---------------------------------------------------------------- commands

    async def configure(self, asked: RunConfig) -> Transition:
        """Give the farm a new run's configuration; run 0 takes the next number.

        Raises `ConfigError`, `StateError`, `UnreachableError`, `RefusedError`.
        """
        async with self.commands:
            await self._check("configure")
            return await self._configure(asked)

    async def _configure(self, asked: RunConfig) -> Transition:
        menu_hash = Menu.parse(asked.menu or DEFAULT_MENU).hash
        check(asked, self.settings.models)
        first = self.settings.first_run or 1
        config = await self.registry(lambda registry: registry.runs.allocate(asked, menu_hash, first))
        self._allocated = config.run
        view = await self._send("configure", config=config)
        self.config = config
        transition = self.transitions.begin("configure", config.run, self.now)
        await self._observe(view)
        told = {"run": config.run, "detector": config.detector, "menu": menu_hash, "model": config.model}
        log.info("run %d configured", config.run, extra=told)
        return self.transitions.get(transition.id) or transition

    async def command(self, op: str) -> Transition | None:
        """A command other than configure; long ones give the transition to follow. Raises as `configure` does."""
        async with self.commands:
            view = await self._check(op)
            run = view.snapshot.run if view.snapshot is not None else None
            if op == "start":
                check_one_run(view)
                run = await self._fresh_run(run)
            if op in LONG or op == "reset":
                self.note_replaced(view)
            before, before_start = self._ending, self.view
            if op in ("stop", "reset"):
                self._ending = Outcome.STOPPED if op == "stop" else (before or Outcome.RESET)
            try:
                view = await self._send(op)
            except HltfarmError as error:
                self._doubtful = self._ending if isinstance(error, UnreachableError) else None
                self._ending = before
                raise
            self.orders.told(op, run)
            if (ending := self._ending) is not None and (open_run := self.open_run) is not None:
                self.recorder.write(
                    f"the end of run {open_run} that was asked for", lambda registry: registry.runs.ending(open_run, ending)
                )
            self.autostart.told(op)
            if op == "reset":
                self.transitions.abandon("the farm was reset", self.now)
            if op == "start" and run is not None and run != self.open_run:  # a look may have shown it already
                self._opened(run, before_start)
            transition = self.transitions.begin(op, run, self.now) if op in LONG else None
            await self._observe(view)
            await self.recorder.written()  # what is promised outlives this process
            log.info("command %s", op, extra={"run": run, "state": str(view.state)})
            return None if transition is None else self.transitions.get(transition.id) or transition

    def _opened(self, run: int, view: FarmView) -> None:
        """A run was started; `view`: the farm before that."""
        now_s = self.recorder.registry.clock()
        self.recorder.write(f"the start of run {run}", lambda registry: registry.runs.begin(run, now_s))
        self.open_run, self._ending, self._ledger, self._models = run, None, None, None
        self._replaced, self._allocated, self._late, self._doubtful = False, None, None, None
        self._counters, self._counted = RunCounters(RunCounts()), float("-inf")  # written at once: a new control counts on from there
        self._activations, self.shadow = ActivationBook(), None
        self._counters.observe(view)
        self.strays.begin(run, view)

    async def _check(self, op: str) -> FarmView:
        """The present view, if it allows `op`."""
        view = await self.look()
        if view.snapshot is None:
            raise UnreachableError("; ".join(view.problems) or "no ingest answers")
        target(view.state, op)
        return view

    async def _fresh_run(self, run: int | None) -> int | None:
        """The configured run number, or a new one with the same configuration if that run already took place."""
        if run is not None and run == self._allocated:
            return run
        record = None if run is None else await self.registry(lambda registry: registry.runs.get(run))
        if record is not None and record.outcome is Outcome.CONFIGURED:
            self._allocated = run
            return run
        config = self.config if self.config is not None or record is None else record.config
        if config is None:
            raise StateError("this control process did not configure the farm; configure it first", ("configure", "reset"))
        transition = await self._configure(msgspec.structs.replace(config, run=0))
        if not await self.until(lambda view: view.state is RunState.CONFIGURED, self.settings.transition_timeout_s):
            raise StateError("the farm did not become Configured again", ("configure", "reset"))
        return transition.run

    async def detach(self, consumer: str) -> int:
        """End the subscriptions of a consumer of the output; how many ingests had one. Raises as `command` does."""
        view = await self.look()
        mine = [
            ingest.endpoint
            for ingest in view.ingests
            if ingest.snapshot is not None and any(consumer == one.name for output in ingest.snapshot.outputs for one in output.consumers)
        ]
        try:
            for endpoint in mine:
                await self._link.detach(endpoint, consumer)
        finally:
            self._epoch += 1
        return len(mine)

    # ---------------------------------------------------------------- registry

    async def _keep_registry(self, view: FarmView, before: FarmView) -> None:
        snapshot = view.snapshot
        if snapshot is None:
            return
        self.orders.adopt(view)
        self._complete(view)
        async with self._adopting:
            if not self._adopted:
                await self._adopt(view, snapshot.run if snapshot.state in OPEN else None)
        if self.open_run is None and snapshot.run is not None and snapshot.run == self._allocated and snapshot.state in OPEN:
            self._opened(snapshot.run, before)  # the start counts as failed: an ingest refused it, or answered too late
        run = self.open_run
        if run is None:
            return
        if snapshot.run == run:
            self._ledger, self._earlier = snapshot.ledger, without(snapshot.totals, snapshot.ledger)
            if snapshot.menu_hash and self._models is None:  # the first; `activations` has the others
                self._models = models = snapshot.models
                self.recorder.write(f"the models of run {run}", lambda registry: registry.runs.decided_by(run, models))
        elif (
            Outcome.RESET in (self._ending, self._doubtful) and snapshot.run is None and snapshot.totals.received >= self._earlier.received
        ):
            self._ledger = without(snapshot.totals, self._earlier)  # a reset ingest has no run, but what it counted last was this one
        self.strays.observe(view, run)
        if self.strays.gone(view):
            self.note_replaced(view)
        self._note_incomplete()
        ended = (snapshot.run != run or snapshot.state not in OPEN) and not (self.goes_on and self.strays.all_lost(view))
        self._count(run, view, write=ended or self.now - self._counted >= self.settings.counters_s)
        if ended:
            lost = self._replaced or self.strays.missing(view)
            whole = not lost and all(ingest.snapshot is not None for ingest in view.ingests)
            self._late = (run, self._ending, frozenset()) if self._ending is Outcome.STOPPED and not lost and not whole else None
            self._finish(run, (self._ending or self._doubtful if whole else None) or Outcome.INTERRUPTED, self._ledger)
            self.open_run, self._ending, self._ledger, self._counters = None, None, None, None

    def _count(self, run: int, view: FarmView, write: bool) -> None:
        """Take in the counters of the open run; `write`: into the registry too."""
        counters = self._counters
        if counters is None:
            return
        counters.observe(view)
        if view.snapshot is not None and view.snapshot.run == run:
            self._activations.observe(view.snapshot.programmes)
        if self._ledger is not None:
            counters.ledger(self._ledger)
        if write:
            self._counted = self.now
            counts, activations = copy.deepcopy(counters.counts), self._activations.entries
            put = partial(Counters.put, run=run, counts=counts, activations=activations)
            self.recorder.write(f"the counters of run {run}", lambda registry: put(registry.counters), key=("counters", run))

    def _finish(self, run: int, outcome: Outcome, ledger: LedgerCounts | None) -> None:
        text, now_s = f"the end of run {run} ({outcome}, {ledger})", self.recorder.registry.clock()
        self.recorder.write(text, lambda registry: registry.runs.finish(run, outcome, ledger, now_s))
        log.info("run %d ended: %s", run, outcome, extra={"run": run, "outcome": str(outcome)})

    def _complete(self, view: FarmView) -> None:
        """A run that ended while one of its ingests was away: its record becomes whole when that one has ended it, too."""
        if self._late is None:
            return
        run, outcome, counted = self._late
        if (ledger := whole_ledger(view, run, counted)) is not None:
            self._late = None
            self._finish(run, outcome, ledger)

    def _keep_transitions(self) -> None:
        """Enter transitions that began or ended."""
        offset = self.recorder.registry.clock() - self.now  # from the monotonic clock to unix seconds
        for record in records_of(self.transitions.news(), offset):
            self.recorder.write(f"transition {record}", partial(enter, record), key=("transition", record.id))

    async def _adopt(self, view: FarmView, present: int | None) -> None:
        """After a restart of the control: the run that still goes on stays open; all others of this farm were interrupted, but for one that
        was to be stopped and that every ingest has ended meanwhile.
        """
        try:
            records = await self.registry(lambda registry: registry.runs.open())
            counted = await self.registry(lambda registry: {r.config.run: registry.counters.get(r.config.run) for r in records})
            begun = None if present is None else await self.registry(lambda registry: registry.runs.get(present))
            activations = await self.registry(lambda registry: [] if present is None else registry.counters.activations(present))
        except DatabaseError as error:
            log.warning("the registry cannot be asked for open runs yet: %s", error)  # asked again at the next look
            return
        self._adopted, now_s = True, self.recorder.registry.clock()
        self.recorder.write("open transitions", lambda registry: registry.journal.abandon("the control was restarted", now_s))
        if present != self.open_run and begun is not None and begun.outcome is Outcome.CONFIGURED and begun.farm == self.settings.farm:
            self._opened(begun.config.run, view)  # the control that started it ended before the registry heard of that
            self.strays = Strays()  # who took part since then is not known
            self._take_over(view, begun.config)
        for record in records:
            if record.config.run == self.open_run:
                continue  # started by this process while the registry could not be asked
            if record.config.run == present:
                self._take_over(view, record.config)
                self.open_run, self._models, counts = present, record.models, counted[present]
                self._counters, self._activations = RunCounters(counts), ActivationBook(activations)
                self._replaced, self._ending = record.incomplete, record.ending
                self.strays.adopt(present, counts.marks)
                if record.ending is None and view.state in _HELD:
                    self.orders.told(_HELD[view.state], present)
                elif record.ending is not None:
                    self.orders.told("stop" if record.ending is Outcome.STOPPED else "reset", present)
                continue
            number, stopped = record.config.run, record.ending is Outcome.STOPPED and not record.incomplete
            ledger = whole_ledger(view, number, counted[number].marks) if stopped else None
            self._late = (number, Outcome.STOPPED, frozenset(counted[number].marks)) if stopped and ledger is None else self._late
            if ledger is not None:
                self.recorder.write(f"the last counters of run {number}", partial(complete, number, view, ledger))
            self._finish(number, Outcome.INTERRUPTED if ledger is None else Outcome.STOPPED, ledger)

    def _take_over(self, view: FarmView, first: RunConfig) -> None:
        """The configuration of an open run that began with `first`, and its shadow, as the ingests have them."""
        snapshot, self.config = view.snapshot, first
        if snapshot is not None and snapshot.programmes and snapshot.programmes[-1].config != first:
            self.exchanged(snapshot.programmes[-1].config)
        if snapshot is not None and (shadow := snapshot.shadow) is not None:
            self.shadow = ShadowOrder(shadow.config, shadow.fraction)

    async def registry(self, call: Callable[[Registry], T]) -> T:
        """Ask the registry, off the event loop. Raises `DatabaseError` when it fails."""
        return await self.recorder.read(call)

    async def close(self) -> None:
        """Write what the registry has not taken yet, and end its thread."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        if (run := self.open_run) is not None and (ledger := closed_ledger(self.view, run)) is not None:  # the farm went down in order
            self._finish(run, Outcome.INTERRUPTED if self._replaced else self._ending or Outcome.STOPPED, ledger)
        await self.recorder.close()
