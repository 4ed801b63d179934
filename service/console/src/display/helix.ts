// The way of a track in a uniform field along z. Lengths in cm, momenta in GeV, fields in tesla. Pure.
//
// The track passes its point nearest to the beam line at (tip sin phi, -tip cos phi, zip), in the direction phi. With s the way in the transverse
// plane since there, the direction is phi - k s: positive charges turn clockwise, as seen against the field.

/** Momentum in GeV of a unit charge on a circle of 1 cm radius in 1 T. */
const GEV_PER_CM_TESLA = 0.00299792458;

export interface Helix {
  pt: number;
  eta: number;
  phi: number;
  tip: number;
  zip: number;
  charge: number;
}

export type Point = [x: number, y: number, z: number];

/** Signed curvature, 1/cm. */
export const curvature = (track: Helix, tesla: number): number => (track.charge * tesla * GEV_PER_CM_TESLA) / track.pt;

/** Where the track is after `s` cm in the transverse plane. */
export function at(track: Helix, tesla: number, s: number): Point {
  const k = curvature(track, tesla);
  const [sin, cos] = [Math.sin(track.phi), Math.cos(track.phi)];
  const half = (k * s) / 2;
  // sin(half) / half is good for straight tracks, too
  const chord = s * (Math.abs(half) < 1e-6 ? 1 : Math.sin(half) / half);
  const direction = track.phi - half;
  return [track.tip * sin + chord * Math.cos(direction), -track.tip * cos + chord * Math.sin(direction), track.zip + Math.sinh(track.eta) * s];
}

/** Way to the point of the track that is nearest to (x, y), within half a turn either side. */
export function wayTo(track: Helix, tesla: number, x: number, y: number): number {
  const k = curvature(track, tesla);
  const [sin, cos] = [Math.sin(track.phi), Math.cos(track.phi)];
  const a = 1 + k * track.tip;
  const [ex, ey] = [k * y + a * cos, a * sin - k * x];
  const turned = Math.atan2(ey * cos - ex * sin, ex * cos + ey * sin);
  return Math.abs(k) < 1e-9 ? (x - track.tip * sin) * cos + (y + track.tip * cos) * sin : -turned / k;
}

/** How far a track is drawn: to its outermost hit and a little more, at least `least`, never around again. */
export function length(track: Helix, tesla: number, hits: readonly Point[], margin: number, least: number): number {
  const end = hits.reduce((longest, [x, y]) => Math.max(longest, wayTo(track, tesla, x, y)), least);
  return Math.min(end + margin, (0.98 * Math.PI) / Math.max(Math.abs(curvature(track, tesla)), 1e-9));
}

/** Points along the track from its point nearest to the beam line, x y z of each in one list; dense where it bends. */
export function polyline(track: Helix, tesla: number, s: number): Float32Array {
  const bend = Math.abs(curvature(track, tesla) * s);
  const steps = Math.min(64, Math.max(2, Math.ceil(bend / 0.04)));
  const points = new Float32Array(3 * (steps + 1));
  for (let i = 0; i <= steps; i += 1) points.set(at(track, tesla, (s * i) / steps), 3 * i);
  return points;
}
