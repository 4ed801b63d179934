"""Truth of simulated events as tables: what the arrays of a sample (docs/sample-format.md) mean."""

from __future__ import annotations

from hltfarm.proto.soa import Column

#: Table -> prefix of its arrays in a sample.
ARRAYS = {"particles": "part_", "collisions": "vtx_", "crossings": "hit_", "pixels": "digi_"}

#: Columns of each table; references count within the event, -1 is none.
TRUTH: dict[str, tuple[Column, ...]] = {
    "particles": (
        Column("vtx", "<i4", "collision that the particle comes from, -1 for one of another bunch crossing"),
        Column("pdg", "<i4", "particle data group number"),
        Column("q", "|i1", "charge"),
        Column("pt", "<f4", "transverse momentum", unit="GeV"),
        Column("eta", "<f4", "pseudorapidity"),
        Column("phi", "<f4", "azimuth"),
        Column("vx", "<f4", "production point", unit="cm"),
        Column("vy", "<f4", "production point", unit="cm"),
        Column("vz", "<f4", "production point", unit="cm"),
        Column("hs", "|b1", "of the hard scatter"),
        Column("src", "|i1", "0 generator, 1 conversion, 2 soft secondary"),
    ),
    "collisions": (
        Column("xyz", "<f4", "position", unit="cm", shape=(3,)),
        Column("hs", "|b1", "the hard scatter"),
    ),
    "crossings": (
        Column("part", "<i4", "particle"),
        Column("module", "<u2", "module"),
        Column("lx", "<f4", "local position along rows", unit="cm"),
        Column("ly", "<f4", "local position along columns", unit="cm"),
        Column("cotalpha", "<f4", "local direction, along rows over depth"),
        Column("cotbeta", "<f4", "local direction, along columns over depth"),
        Column("gx", "<f4", "global position", unit="cm"),
        Column("gy", "<f4", "global position", unit="cm"),
        Column("gz", "<f4", "global position", unit="cm"),
        Column("pass", "|i1", "half-turn of the helix, 0 is outgoing"),
    ),
    "pixels": (
        Column("module", "<u2", "module"),
        Column("row", "<u2", "row"),
        Column("col", "<u2", "column"),
        Column("adc", "|u1", "amplitude as read out"),
        Column("hit", "<i4", "crossing that the pixel comes from, -1 for noise"),
    ),
}
