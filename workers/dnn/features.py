"""Features of a track: what selectors see. Formulas in docs/reconstruction.md; the kernel is `make_features` in features.cuh."""

from hltfarm.proto.soa import Column

#: Bins of `ZProfile`, 0.01 cm of zip each; the first one begins 12.8 cm before the beam spot.
PROFILE_BINS = 2560

#: Half widths of the windows of zip in which other tracks are counted, in bins.
WINDOWS = (1, 2, 4, 8, 16, 64)

FEATURE_COLUMNS = (
    Column("log_chi2", "f4", "logarithm of the chi square per degree of freedom"),
    Column("log_pt", "f4", "logarithm of pt / GeV"),
    Column("eta", "f4", "pseudorapidity"),
    Column("abs_eta", "f4", "its magnitude"),
    Column("tip", "f4", "transverse impact parameter", unit="cm"),
    Column("zip", "f4", "z at the point of closest approach", unit="cm"),
    Column("n_hits", "f4", "number of hits"),
    Column("n_layers", "f4", "number of layers"),
    Column("tip_significance", "f4", "|tip| in errors"),
    Column("log_tip_error", "f4", "logarithm of the error of tip / cm"),
    Column("log_zip_error", "f4", "logarithm of the error of zip / cm"),
    Column("log_cot_error", "f4", "logarithm of the error of the cotangent of the polar angle"),
    Column("log_pt_error", "f4", "logarithm of the relative error of pt"),
    Column("charge_min", "f4", "least charge of its clusters: logarithm of electrons for 285 um of path in silicon"),
    Column("charge_max", "f4", "largest, likewise"),
    Column("charge_mean", "f4", "mean, likewise"),
    Column("charge_first", "f4", "of the innermost hit, likewise"),
    Column("charge_last", "f4", "of the outermost hit, likewise"),
    Column("size_y_first", "f4", "cluster length of the innermost hit beyond what the slope predicts", unit="pixel / 8"),
    Column("size_y_second", "f4", "of the second hit, likewise", unit="pixel / 8"),
    Column("size_y_last", "f4", "of the outermost hit, likewise", unit="pixel / 8"),
    Column("size_y_min", "f4", "least, likewise", unit="pixel / 8"),
    Column("size_y_max", "f4", "largest, likewise", unit="pixel / 8"),
    Column("size_y_mean", "f4", "mean magnitude, likewise", unit="pixel / 8"),
    Column("size_x_first", "f4", "cluster width of the innermost hit beyond what the slope predicts", unit="pixel / 8"),
    Column("size_x_last", "f4", "of the outermost hit, likewise", unit="pixel / 8"),
    Column("size_x_min", "f4", "least, likewise", unit="pixel / 8"),
    Column("size_x_max", "f4", "largest, likewise", unit="pixel / 8"),
    Column("size_x_mean", "f4", "mean magnitude, likewise", unit="pixel / 8"),
    Column("r_first", "f4", "radius of the innermost hit", unit="cm"),
    Column("abs_z_first", "f4", "|z| of the innermost hit", unit="cm"),
    Column("r_last", "f4", "radius of the outermost hit", unit="cm"),
    Column("abs_z_last", "f4", "|z| of the outermost hit", unit="cm"),
    *(
        Column(f"neighbours_{w}", "f4", f"ln(1 + loose tracks of four and more hits within {w} bins of zip, itself not counted)")
        for w in WINDOWS
    ),
    Column("shared_hits", "f4", "other loose tracks at its hits, summed over the hits"),
)

#: Names of all features, in the order of their columns.
FEATURES = tuple(c.name for c in FEATURE_COLUMNS)
