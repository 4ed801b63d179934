"""Menus and models by reference: what a name or a hash stands for, and whether it may be taken away."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from hltfarm.proto.errors import AccessError, ConfigError, StateError
from hltfarm.proto.messages import RunConfig
from hltfarm.service.control.farm import FarmControl
from hltfarm.service.control.models import ConfigureRequest, ProgrammeRequest
from hltfarm.service.control.references import MenuError, UnknownError
from hltfarm.service.model_store import ModelStore
from hltfarm.service.registry import MenuRecord, ModelRecord
from hltfarm.service.security.tokens import Role
from hltfarm.workers.menu.menu import DEFAULT_MENU, Menu, check
from hltfarm.workers.models.registry import shipped

#: Fields of a request that are those of a configuration.
_PROGRAMME = ("menu", "model", "working_point", "engine", "event_model")
#: References that always stand for something: the built-in menu, and that of the present run.
DEFAULT, ACTIVE = "default", "active"


@dataclass(frozen=True, slots=True)
class MenuText:
    """A menu that a reference stands for. `record`: its entry in the store, None for one that is not there."""

    text: str
    menu: Menu
    record: MenuRecord | None


def parse(text: str) -> Menu:
    """The menu of a text. Raises MenuError with every fault."""
    menu = check(text)
    if isinstance(menu, Menu):
        return menu
    raise MenuError(menu)


def check_folders(given: Mapping[str, object], known: Sequence[RunConfig]) -> None:
    """Raises AccessError for a folder of the machine that `known` configurations do not name: whoever names one has a worker read it."""
    for field in ("detector", "model", "event_model"):
        name = given.get(field)
        folder = name != "phase1" if field == "detector" else Path(str(name)).is_absolute()
        if name is not None and folder and name not in (getattr(config, field) for config in known):
            raise AccessError(f"{field} {name!r} is a folder of the machine, which admins may name; give one that is shipped or uploaded")


class Library:
    """The stores of menus and models of a farm. `models`: None where models cannot be uploaded. Raises as the registry does."""

    def __init__(self, farm: FarmControl, models: ModelStore | None) -> None:
        self.models = models
        self._farm = farm
        self._changes = asyncio.Lock()  # a model is not taken away between its look-up and its use

    # ---------------------------------------------------------------- menus

    async def menu(self, reference: str) -> MenuText:
        """The menu of a hash or name, the latest where several have it; `default` and `active` too. Raises UnknownError."""
        found = await self._farm.registry(lambda registry: registry.menus.find(reference))
        if found:
            return MenuText(found[0].text, parse(found[0].text), found[0])
        if reference == DEFAULT:
            return MenuText(DEFAULT_MENU, parse(DEFAULT_MENU), None)
        if reference == ACTIVE and (config := self._farm.deciding) is not None:
            text = config.menu or DEFAULT_MENU
            return MenuText(text, parse(text), None)
        raise UnknownError(f"menu {reference!r} is neither a name nor a hash in the store; `hltfarm ctl menu list` shows them")

    async def add_menu(self, text: str, who: str) -> tuple[MenuText, bool]:
        """Check and store a menu; whether it is new. Raises MenuError."""
        menu = parse(text)
        if menu.name in (DEFAULT, ACTIVE):
            raise ConfigError(f"the name {menu.name!r} always stands for another menu; give this one its own (`name: ...`)")
        record, new = await self._farm.registry(lambda registry: registry.menus.put(menu.name, menu.hash, text, who))
        return MenuText(record.text, menu, record), new

    async def remove_menu(self, reference: str) -> None:
        """Forget a menu. Raises UnknownError, and StateError while it is in use or if a name stands for several."""
        found = await self._farm.registry(lambda registry: registry.menus.find(reference))
        if not found:
            raise UnknownError(f"menu {reference!r} is neither a name nor a hash in the store")
        hashes = {record.hash for record in found}
        if len(hashes) > 1:
            raise StateError(f"{len(hashes)} menus have the name {reference!r}; name one by its hash: {', '.join(sorted(hashes))}")
        menu_hash = hashes.pop()
        for config in self._farm.in_use():
            if Menu.parse(config.menu or DEFAULT_MENU).hash == menu_hash:
                raise StateError(f"menu {reference!r} is in use by run {config.run}; activate another one first, or end the run")
        await self._farm.registry(lambda registry: registry.menus.remove(menu_hash))

    # ---------------------------------------------------------------- models

    @property
    def store(self) -> ModelStore:
        """The store of models. Raises StateError where there is none."""
        if self.models is None:
            raise StateError("this control has no store of models; start it with --models FOLDER, one that the workers can read")
        return self.models

    async def model(self, reference: str) -> ModelRecord:
        """An uploaded model by its hash, name (the latest version) or NAME@VERSION. Raises UnknownError."""
        found = await self._farm.registry(lambda registry: registry.models.find(reference))
        if not found:
            known = ", ".join(shipped()) or "none"
            raise UnknownError(f"model {reference!r} is not shipped (shipped are {known}), nor was one of this name or hash uploaded")
        return found[0]

    async def add_model(self, upload: IO[bytes], who: str) -> tuple[ModelRecord, bool]:
        """Check and store an uploaded package (zip); whether it is new. Raises ConfigError."""
        store = self.store
        async with self._changes:
            described, folder, size = await asyncio.to_thread(store.add, upload)
            return await self._farm.registry(lambda registry: registry.models.put(described, folder, size, who))

    async def remove_model(self, reference: str) -> None:
        """Take an uploaded model away. Raises UnknownError, and StateError while it is in use or if a name stands for several."""
        store = self.store
        async with self._changes:
            found = await self._farm.registry(lambda registry: registry.models.find(reference))
            if not found:
                raise UnknownError(f"model {reference!r} was not uploaded; a shipped one cannot be deleted")
            if len(found) > 1:
                hashes = ", ".join(sorted(record.hash for record in found))
                raise StateError(f"{len(found)} models have the name {reference!r}; name one by its hash: {hashes}")
            record = found[0]
            for config in self._farm.in_use():
                if record.folder in (config.model, config.event_model):
                    raise StateError(f"model {reference!r} is in use by run {config.run}; activate another one first, or end the run")
            await self._farm.registry(lambda registry: registry.models.remove(record.hash))
            await asyncio.to_thread(store.remove, record.name, record.hash)

    async def _folder(self, name: str) -> str:
        """What a worker is told of a model: uploaded ones become their folder, everything else stays."""
        if name in ("", "none") or Path(name).is_absolute() or name.partition("@")[0] in shipped():
            return name
        try:
            record = await self.model(name)
        except UnknownError as error:
            raise ConfigError(f"{error}; a folder on the workers' machines has an absolute path") from None
        if not await asyncio.to_thread(Path(record.folder).is_dir):
            raise ConfigError(f"model {name!r} was uploaded to {record.folder}, which is not there any more; upload it again")
        return record.folder

    # ---------------------------------------------------------------- requests

    async def config(self, asked: ProgrammeRequest, present: RunConfig, role: Role) -> RunConfig:
        """What is asked for in full, `present` where nothing is said. `role`: of who asks.

        Raises ConfigError for what does not stand for anything, AccessError for a folder that the caller may not name.
        """
        given = asked.model_dump(exclude_none=True, include=set(_PROGRAMME))
        if isinstance(asked, ConfigureRequest):
            given |= asked.model_dump(exclude_none=True, include={"run", "detector"})
        if role < Role.ADMIN:
            check_folders(given, (present, self._farm.settings.defaults))
        if asked.menu_ref is not None:
            try:
                given["menu"] = (await self.menu(asked.menu_ref)).text
            except UnknownError as error:
                raise ConfigError(str(error)) from None
        for field in ("model", "event_model"):
            if field in given:
                given[field] = await self._folder(given[field])
        if asked.model is not None:
            given.setdefault("working_point", "")
        return msgspec.structs.replace(present, **given)
