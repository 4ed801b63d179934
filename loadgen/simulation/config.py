"""Parameters of the simulation. Every number that shapes an event is here, with its unit, its origin and what moving it does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GeneratorConfig:
    """Proton-proton collisions and the pool they are kept in. A change of any field gives other events."""

    #: Centre-of-mass energy. Lower: fewer and softer particles (minimum bias grows about 10 % from 8 to 14 TeV).
    ecm_gev: float = 14000.0
    #: Minimum-bias events in a pool block. Small: quick cold start, but every interaction is seen often; large: slow cold start.
    minbias_block: int = 1000
    #: Number of different minimum-bias blocks. Group g of `group_events` events draws from block g modulo this.
    minbias_blocks: int = 8
    #: Events that share a minimum-bias block.
    group_events: int = 100
    #: Hard-scatter (ttbar) events in a block; event k uses hard event k, none is used twice. Small: many Pythia starts (seconds each).
    hard_block: int = 50
    #: Acceptance of particles kept. Lower: disks lose hits of displaced vertices; higher: time spent on particles that miss the detector.
    eta_max: float = 3.4
    #: Charged particles below this transverse momentum circle inside the beam pipe (radius 1.75 cm at 20 MeV).
    pt_min_gev: float = 0.020
    #: Photons below this energy give electrons that do not leave the material they are made in.
    photon_e_min_gev: float = 0.030
    #: Unstable particles decay if they do so inside this cylinder (the pixel volume); outside, the particle itself is kept.
    decay_radius_mm: float = 170.0
    decay_half_length_mm: float = 550.0


@dataclass(frozen=True)
class TrackingConfig:
    """Passage of particles through the detector."""

    #: Half-turns followed. Each one beyond the first adds less; 8 add about 15 % of the hits. Lower: loopers end early, too few clusters.
    max_half_turns: int = 8
    #: Surfaces visited by one particle; a safety bound on the stepping loop, rarely reached.
    max_visits: int = 72
    #: Thickness in radiation lengths at normal incidence: beam pipe, a barrel layer, a disk (sensor, chips, support, cooling).
    #: Higher: more scattering and conversions, loopers stop earlier.
    x0_pipe: float = 0.0025
    x0_barrel: float = 0.017
    x0_disk: float = 0.030
    #: Outer tracker, per layer, crossed by particles that leave the pixel detector and come back.
    x0_outer: float = 0.030
    #: Radii of the outer tracker's layers in cm; orbits beyond the last one are given up.
    outer_radii_cm: tuple[float, ...] = (25.5, 34.0, 42.0, 50.0, 61.0, 70.0, 78.0, 87.0, 97.0, 108.0)
    #: Half length of the outer tracker in cm.
    outer_half_length_cm: float = 110.0
    #: Beam pipe radius in cm.
    pipe_radius_cm: float = 2.17
    #: Mean ionisation loss of a minimum-ionising particle per radiation length, GeV (silicon 0.036, carbon 0.074).
    loss_per_x0_gev: float = 0.050
    #: Nuclear interaction lengths per radiation length (silicon 0.20, carbon 0.50). Higher: more tracks end inside the detector.
    lambda_per_x0: float = 0.40


@dataclass(frozen=True)
class SecondaryConfig:
    """The soft component: what a full simulation makes in the material and the generator does not know of.

    Shapes are simple; the rates `slow_per_crossing` and `delta_per_crossing` are tuned to the means of the CMS Open Data sample.
    """

    #: Photon conversions: fraction of a radiation length that converts.
    conversion_per_x0: float = 7.0 / 9.0
    #: Electrons below this momentum are not followed.
    conversion_p_min_gev: float = 0.003
    #: Charged particles made by the nuclear interaction of a hadron (Poisson mean).
    nuclear_multiplicity: float = 3.0
    #: Delta electrons above `delta_t_min_gev` per crossing of a layer at normal incidence (spectrum 1/T^2).
    delta_per_crossing: float = 0.006
    delta_t_min_gev: float = 0.0020
    delta_t_max_gev: float = 0.050
    #: Slow hadrons (pions and protons of neutron capture, evaporation, albedo) per crossing of a layer. Higher: more, larger clusters.
    slow_per_crossing: float = 0.042
    #: Mean kinetic energy of slow pions and protons. Lower: shorter, more strongly ionising tracks.
    slow_pion_t_gev: float = 0.030
    slow_proton_t_gev: float = 0.040
    #: Fraction of protons among the slow hadrons.
    slow_proton_fraction: float = 0.35


@dataclass(frozen=True)
class SensorConfig:
    """Charge in silicon, read-out chip, converter."""

    #: Energy per electron-hole pair, GeV.
    pair_energy_gev: float = 3.62e-9
    #: Diffusion (rms) of a charge that drifts 0.03 cm, cm. Higher: wider clusters.
    diffusion_cm: float = 0.00037
    #: Longest step of the deposition along x and y, cm. Longer: quicker, coarser sharing between pixels.
    step_x_cm: float = 0.0020
    step_y_cm: float = 0.0040
    #: Smallest and largest number of steps in a sensor. A low minimum costs resolution: 8 steps give 0.5 um more on the disks than 12.
    min_steps: int = 12
    max_steps: int = 64
    #: Energy of a single delta electron beyond which it is cut (it leaves the sensor), GeV.
    delta_cut_gev: float = 0.00035
    #: Electronic noise per fired pixel, electrons rms.
    noise_electrons: float = 150.0
    #: Thresholds in electrons and their spread from pixel to pixel. Higher: fewer and smaller clusters.
    threshold_layer1: float = 2300.0
    threshold_other: float = 1700.0
    threshold_spread: float = 150.0
    #: Relative spread of the gain that the calibration does not know.
    gain_spread: float = 0.02
    #: Probability that a whole hit is lost (read-out losses), first barrel layer and elsewhere.
    hit_loss_layer1: float = 0.020
    hit_loss_other: float = 0.005
    #: Probability that a single pixel is lost.
    pixel_loss: float = 0.002
    #: Highest converter value.
    adc_max: int = 255


@dataclass(frozen=True)
class FaultConfig:
    """Imperfections on request; all off."""

    #: Fraction of modules, and of read-out chips, that give no data. The choice depends on the seed, not on the event.
    dead_modules: float = 0.0
    dead_chips: float = 0.0
    #: Mean number of noise pixels per event.
    noise_pixels: float = 0.0
    #: Mean number of FED error words per event.
    error_words: float = 0.0
    #: Mean number of interactions in neighbouring bunch crossings, and the part of their hits that falls into this one.
    out_of_time_pileup: float = 0.0
    out_of_time_fraction: float = 0.2


@dataclass(frozen=True)
class SimulationConfig:
    """All parameters."""

    generator: GeneratorConfig = GeneratorConfig()
    tracking: TrackingConfig = TrackingConfig()
    secondaries: SecondaryConfig = SecondaryConfig()
    sensor: SensorConfig = SensorConfig()
    faults: FaultConfig = FaultConfig()
