"""Settings of the control plane: an object passed in, never a global."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hltfarm.proto.messages import RunConfig
from hltfarm.service.control.access import AccessSettings

FARM_NAME = r"^[A-Za-z0-9_.-]{0,64}$"


class ControlSettings(BaseModel):
    """Everything that a control process is told from outside. Durations in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ingests: tuple[str, ...]
    """ZeroMQ endpoints of the ingests' control sockets, such as tcp://ingest:7002."""
    ingest_names: tuple[str, ...] = ()
    """Names under which a name service knows more of them, see `discovery`."""
    forget_ingest_s: float = Field(default=30.0, gt=0)
    """Silence after which an ingest that was found by name is given up: until then it holds up looks and the begin of a run."""
    database: str = "sqlite://"
    """SQLAlchemy URL of the run registry; the default lives in memory, and run numbers begin again with every process."""
    farm: str = Field(default="", pattern=FARM_NAME)
    """Name of this farm among those that share a database: run numbers are common, what else is open or interrupted is its own."""
    counters_s: float = Field(default=5.0, gt=0)
    """Time between two writes of the open run's counters; at its end they are written anyway."""
    detector: str = "phase1"
    """Detector of a configure command that names none."""
    models: Path | None = None
    """Folder of uploaded models, which the workers can read under the same name. None: models cannot be uploaded."""
    menu: str = ""
    """Menu (YAML text) of a configure command that brings none; empty: the built-in menu."""
    model: str = ""
    """Selector of tracks of a configure command that names none: a shipped model, or a folder on the workers' machines; "none": none.
    Empty, here and below: what the configuration of the reconstruction says."""
    working_point: str = ""
    """Its working point."""
    engine: str = ""
    """How it is computed."""
    event_model: str = ""
    """Classifier of events of a configure command that names none."""
    first_run: int | None = Field(default=None, ge=1)
    """Number of the first run; later ones follow, also those of a control that is restarted. None continues the registry's numbers."""
    autostart: bool = False
    """Configure and start a run whenever the ingests are found Halted, and no run that they lost goes on; after a `stop`: configure it."""
    request_timeout_s: float = Field(default=2.0, gt=0)
    """Answer time of an ingest; too low calls a busy ingest gone, too high lets requests to a dead one hang."""
    poll_s: float = Field(default=0.5, gt=0)
    """Time between two looks at the ingests; rates are averages over `rate_window_s`."""
    transition_timeout_s: float = Field(default=60.0, gt=0)
    """A transition that takes longer is reported as failed (the ingest may still complete it)."""
    rate_window_s: float = Field(default=10.0, gt=0)
    progress_s: float = Field(default=10.0, gt=0)
    """Readiness: with events in flight, a decision must have come within this time; workers must have reported within it."""

    access: AccessSettings = AccessSettings()
    """Who may use the API."""

    @model_validator(mode="after")
    def _has_ingests(self) -> Self:
        if not self.ingests and not self.ingest_names:
            raise ValueError("no ingest is given, and no name to find them by")
        return self

    @property
    def defaults(self) -> RunConfig:
        """What a configure command that says nothing asks for; run 0 is the next one."""
        return RunConfig(
            run=0,
            detector=self.detector,
            menu=self.menu,
            model=self.model,
            working_point=self.working_point,
            engine=self.engine,
            event_model=self.event_model,
        )
