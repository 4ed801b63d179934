"""Features of a track: what selectors see. Formulas in docs/reconstruction.md; the kernel is `make_features` in features.cuh."""

from hltfarm.proto.soa import Column

FEATURE_COLUMNS = (
    Column("chi2", "f4", "chi square per degree of freedom"),
    Column("zip_error", "f4", "error of zip", unit="cm"),
    Column("tip_error", "f4", "error of tip", unit="cm"),
    Column("eta", "f4", "pseudorapidity"),
    Column("n_hits", "f4", "number of hits"),
    Column("phi", "f4", "azimuth"),
    Column("phi_error", "f4", "error of phi"),
    Column("pt", "f4", "transverse momentum", unit="GeV"),
    Column("qpt_error", "f4", "error of charge over transverse momentum", unit="1/GeV"),
    Column("zip", "f4", "z at the point of closest approach", unit="cm"),
    Column("tip", "f4", "transverse impact parameter", unit="cm"),
)

#: Names of all features, in the order of their columns.
FEATURES = tuple(c.name for c in FEATURE_COLUMNS)
