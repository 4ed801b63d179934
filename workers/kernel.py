"""How a stage declares itself: its data structures and the kernels it runs, in order.

The declaration is the single source: C++ structs, launch code for both backends and the arena are generated from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from hltfarm.proto.soa import Params, Schema


@dataclass(frozen=True)
class Kernel:
    """One kernel: the C++ function `name` of the stage's header, applied to `items` work items.

    A team of 32 is a warp, and gets a WarpTeam; larger ones are a block, and get a Team.
    `items` names the scalar column ("Struct.column") that holds the number of items when the kernel starts.
    `args` names the structs it takes, in order. `team` is the number of GPU threads that share one item (0: one thread an item,
    the function then has no Team argument). `scratch` names the Params field that holds the bytes of team memory it needs;
    scratch is zero when a kernel starts and every item leaves it zero. `several` names a C++ constant, 1 on the GPU: a call then takes
    so many items from the first on, and the function gets the number of all items as its second argument. `when` names the kind of
    selector that the kernel belongs to (workers/dnn); without it the kernel runs always. `blocks`: blocks that a multiprocessor shall
    hold at least, which bounds the registers of a thread; 0: as the compiler likes.
    """

    name: str
    items: str
    args: tuple[str, ...]
    team: int = 0
    scratch: str | None = None
    several: str = ""
    when: str = ""
    blocks: int = 0


@dataclass(frozen=True)
class Inference:
    """A torch model between two kernels: reads columns of the struct `of` and writes its column `score`, for `items` rows, in place."""

    name: str
    items: str
    of: str
    when: str


@dataclass(frozen=True)
class Stage:
    """A stage of the chain: folder `name`, header `name`/`name`.cuh, its structs and kernels.

    `columns` are the structures the stage adds to the arena, each with what it has one entry per: "events", "words" (of payload),
    "frames" (event x FED), "modules" (event x module) or "hits". `tables` are filled once from configuration. `steps` run in order.
    """

    name: str
    columns: tuple[tuple[Schema, str], ...]
    steps: tuple[Kernel | Inference, ...]
    tables: tuple[Schema, ...] = ()
    params: tuple[Params, ...] = ()

    @property
    def schemas(self) -> tuple[Schema, ...]:
        return (*(schema for schema, _ in self.columns), *self.tables)

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        return tuple(step for step in self.steps if isinstance(step, Kernel))

    @property
    def header(self) -> str:
        return f"{self.name}/{self.name}.cuh"
