"""What a detector file (YAML) may say: docs/detector-file.md. Lengths in cm, charges in electrons, angles in degrees."""

from __future__ import annotations

from typing import Any

import msgspec

Number = float | int


class Spot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Luminous region."""

    x_cm: float = 0.0
    y_cm: float = 0.0
    z_cm: float = 0.0
    sigma_x_cm: float = 1.5e-3
    sigma_y_cm: float = 1.5e-3
    sigma_z_cm: float = 4.0


class Sensor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The pixel matrix and its silicon, the same for all modules. Rows count along local x, columns along local y."""

    rows: int
    cols: int
    chip_rows: int
    chip_cols: int
    pitch_x_cm: float
    pitch_y_cm: float
    thickness_cm: float
    double_at_chip_edges: bool = False  # pixels on both sides of an inner chip border are twice as wide
    hall_mobility: float = 0.0  # tan(Lorentz angle) per tesla
    error_scale_x: float = (
        1.0  # hit errors are a model of silicon of 100 x 150 um, times this; the pulls of `validate` tell what it should be
    )
    error_scale_y: float = 1.0


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From ADC counts to electrons: (adc - pedestal_adc) * electrons_per_adc. The same for all pixels."""

    electrons_per_adc: float
    pedestal_adc: float = 0.0
    min_electrons: int = 100
    min_cluster_charge: int = 2000


class Readout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Modules in order onto FEDs (0: as many on each as the words can name)."""

    first_fed: int = 0
    modules_per_fed: int = 0


class Barrel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ladders around the beam, at radius -+ stagger in turn, of modules in a row; local x is the direction of azimuth, local y is -z."""

    radius_cm: float
    ladders: int
    modules: int
    pitch_z_cm: float
    stagger_cm: float = 0.0
    tilt_deg: float = 0.0
    z_cm: float = 0.0


class Ring(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Modules around the beam on a plane of a disk; local y points outwards."""

    radius_cm: float
    modules: int
    phi_deg: float = 0.0


class Disk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rings at z; every second module lies `stagger_cm` behind."""

    z_cm: float
    rings: tuple[Ring, ...]
    stagger_cm: float = 0.0


class Placed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One module where it is: centre, and the directions of rows and columns in the global frame (made orthonormal)."""

    centre_cm: tuple[float, float, float]
    x_axis: tuple[float, float, float]
    y_axis: tuple[float, float, float]


class LayerFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One layer: by formula (barrel or disk), or module by module; `is_barrel` is for the latter."""

    name: str
    barrel: Barrel | None = None
    disk: Disk | None = None
    modules: tuple[Placed, ...] | None = None
    is_barrel: bool = True


class DetectorFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    version: int
    name: str
    field_tesla: float
    sensor: Sensor
    calibration: Calibration
    layers: tuple[LayerFile, ...]
    beam_spot: Spot = Spot()
    readout: Readout = Readout()
    reconstruction: dict[str, Any] = {}  # checked where it is used: workers/detector_cuts.py
