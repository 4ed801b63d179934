"""The tables as they are now. Times are unix seconds, so that no database touches a time zone. `steps.py` makes them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Integer, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Root of the tables."""


class Run(Base):
    """A run number that was given out."""

    __tablename__ = "runs"
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    detector: Mapped[str] = mapped_column(Text)
    menu: Mapped[str] = mapped_column(Text)
    menu_hash: Mapped[str] = mapped_column(String(128))
    model: Mapped[str] = mapped_column(Text)
    working_point: Mapped[str] = mapped_column(String(16))
    engine: Mapped[str] = mapped_column(String(16))
    event_model: Mapped[str] = mapped_column(Text)
    models: Mapped[str | None] = mapped_column(Text)  # JSON
    outcome: Mapped[str] = mapped_column(String(16))
    created_s: Mapped[float]
    started_s: Mapped[float | None]
    stopped_s: Mapped[float | None]
    received: Mapped[int | None] = mapped_column(BigInteger)
    accepted: Mapped[int | None] = mapped_column(BigInteger)
    rejected: Mapped[int | None] = mapped_column(BigInteger)
    error: Mapped[int | None] = mapped_column(BigInteger)
    in_flight: Mapped[int | None] = mapped_column(BigInteger)
    duplicates: Mapped[int | None] = mapped_column(BigInteger)
    farm: Mapped[str] = mapped_column(String(64), default="")
    counted_s: Mapped[float | None]
    marks: Mapped[str | None] = mapped_column(Text)  # JSON
    ending: Mapped[str | None] = mapped_column(String(16))
    incomplete: Mapped[int | None]  # 1 or nothing


class Counter(Base):
    """One number of a run."""

    __tablename__ = "counters"
    run: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)


class Activated(Base):
    """A programme of a run: from a lumisection on."""

    __tablename__ = "activations"
    run: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    first_lumi: Mapped[int] = mapped_column(BigInteger)
    menu: Mapped[str] = mapped_column(Text)
    menu_hash: Mapped[str] = mapped_column(String(128))
    models: Mapped[str] = mapped_column(Text)  # JSON
    accepted: Mapped[int] = mapped_column(BigInteger)
    rejected: Mapped[int] = mapped_column(BigInteger)


class StoredMenu(Base):
    """A menu that was uploaded."""

    __tablename__ = "menus"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    hash: Mapped[str] = mapped_column(String(128), primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    created_s: Mapped[float]
    changed_s: Mapped[float]
    who: Mapped[str] = mapped_column(String(128))


class StoredModel(Base):
    """A model that was uploaded."""

    __tablename__ = "models"
    hash: Mapped[str] = mapped_column(String(128), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    version: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str] = mapped_column(String(16))
    target: Mapped[str] = mapped_column(String(16))
    folder: Mapped[str] = mapped_column(Text)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_s: Mapped[float]
    who: Mapped[str] = mapped_column(String(128))


class StoredTransition(Base):
    """A command that took time."""

    __tablename__ = "transitions"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    farm: Mapped[str] = mapped_column(String(64))
    run: Mapped[int | None] = mapped_column(BigInteger)
    command: Mapped[str] = mapped_column(String(32))
    progress: Mapped[str] = mapped_column(String(16))
    began_s: Mapped[float]
    ended_s: Mapped[float | None]
    error: Mapped[str | None] = mapped_column(Text)


class Audited(Base):
    """A command that changes something."""

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    time_s: Mapped[float]
    farm: Mapped[str] = mapped_column(String(64))
    who: Mapped[str] = mapped_column(String(128))
    address: Mapped[str] = mapped_column(String(128))
    command: Mapped[str] = mapped_column(String(256))
    arguments: Mapped[str] = mapped_column(Text)  # JSON
    status: Mapped[int] = mapped_column(Integer)
    outcome: Mapped[str] = mapped_column(String(16))
    detail: Mapped[str | None] = mapped_column(Text)
    transition: Mapped[str | None] = mapped_column(String(32))
