// One event ready to be drawn: ways of tracks, hits of tracks, and which of them pass the filters. Pure.
import type { BeamSpot, EventDetail, Geometry, Layer } from "../types";
import * as helix from "./helix";
import { ofLayer, ofPt, ofQuality, ofVertex, type Tone } from "./palette";

export type ColourBy = "vertex" | "pt" | "quality";
export type HitsShown = "all" | "tracks" | "none";

export interface Filters {
  ptMin: number;
  nHitsMin: number;
  loose: boolean;
  high: boolean;
  rest: boolean;
  /** Tracks of this vertex alone; null: of all. */
  vertex: number | null;
  colourBy: ColourBy;
  hits: HitsShown;
}

export const FILTERS: Filters = { ptMin: 0, nHitsMin: 3, loose: true, high: true, rest: false, vertex: null, colourBy: "vertex", hits: "all" };

export interface Track extends helix.Helix {
  index: number;
  chi2: number;
  nHits: number;
  quality: number;
  score: number;
  vertex: number;
  hits: number[];
  /** x y z of the points of its way, cm. */
  path: Float32Array;
}

export interface Vertex {
  index: number;
  z: number;
  tracks: number;
  sumPt2: number;
  chi2: number;
  ndof: number;
}

const MARGIN_CM = 0.8;
const LEAST_CM = 3;

export class Scene {
  readonly tracks: Track[];
  readonly vertices: Vertex[];
  readonly layers: Map<number, Layer>;
  /** Track of a hit, -1 for none: the best one where several share it. */
  readonly trackOfHit: Int32Array;
  /** Where positions count from, in the frame of the detector. */
  readonly spot: BeamSpot;

  constructor(
    readonly event: EventDetail,
    readonly geometry: Geometry,
  ) {
    this.spot = event.beam_spot ?? geometry.beam_spot ?? { x: 0, y: 0, z: 0 };
    this.layers = new Map(geometry.layers.map((layer) => [layer.id, layer]));
    this.trackOfHit = new Int32Array(event.hits.x.length).fill(-1);
    this.tracks = event.tracks.pt.map((_pt, index) => this.track(index));
    for (const track of this.tracks) {
      for (const hit of track.hits) {
        const other = this.trackOfHit[hit];
        if (other === undefined || other < 0 || (this.tracks[other]?.quality ?? -1) < track.quality) this.trackOfHit[hit] = track.index;
      }
    }
    const { z, n_tracks, sum_pt2, chi2, ndof } = event.vertices;
    this.vertices = z.map((value, index) => ({ index, z: value, tracks: n_tracks[index] ?? 0, sumPt2: sum_pt2[index] ?? 0, chi2: chi2[index] ?? 0, ndof: ndof[index] ?? 0 }));
  }

  private track(index: number): Track {
    const { tracks, hits } = this.event;
    const tesla = this.event.field_tesla ?? 0;
    const of = (column: number[]): number => column[index] ?? 0;
    const own = tracks.hits.slice(of(tracks.hit_offsets), tracks.hit_offsets[index + 1]);
    const way = { pt: of(tracks.pt), eta: of(tracks.eta), phi: of(tracks.phi), tip: of(tracks.tip), zip: of(tracks.zip), charge: of(tracks.charge) };
    const points = own.map((hit): helix.Point => [hits.x[hit] ?? 0, hits.y[hit] ?? 0, hits.z[hit] ?? 0]);
    const s = helix.length(way, tesla, points, MARGIN_CM, LEAST_CM);
    return {
      ...way, index, chi2: of(tracks.chi2), nHits: of(tracks.n_hits), quality: of(tracks.quality), score: of(tracks.score), vertex: tracks.vertex[index] ?? -1,
      hits: own, path: helix.polyline(way, tesla, s),
    };
  }

  /** Tracks that pass. */
  visible(filters: Filters): Track[] {
    return this.tracks.filter((track) => passes(track, filters));
  }

  /** Hits that are drawn with these tracks. */
  hitsShown(filters: Filters, visible: readonly Track[]): number[] {
    if (filters.hits === "none") return [];
    if (filters.hits === "tracks") return [...new Set(visible.flatMap((track) => track.hits))];
    return Array.from(this.event.hits.x.keys());
  }

  colourOfTrack(track: Track, by: ColourBy, tone: Tone): string {
    if (by === "pt") return ofPt(track.pt, tone);
    return by === "quality" ? ofQuality(track.quality, tone) : ofVertex(track.vertex, tone);
  }

  colourOfLayer(id: number, tone: Tone): string {
    const layer = this.layers.get(id);
    const part = layer?.part ?? "barrel";
    const same = this.geometry.layers.filter((other) => other.part === part);
    const place = same.findIndex((other) => other.id === id) / Math.max(1, same.length - 1);
    return ofLayer(place, part, tone);
  }

  /** Largest radius and |z| of the detector, relative to the beam spot. */
  get extent(): { r: number; z: number } {
    const { x, y, z } = this.spot;
    const { layers } = this.geometry;
    if (layers.length === 0) return { r: 20, z: 60 };
    return { r: Math.max(...layers.map((layer) => layer.r_max)) + Math.hypot(x, y), z: Math.max(...layers.map((layer) => Math.max(layer.z_max, -layer.z_min))) + Math.abs(z) };
  }
}

export function passes(track: Track, filters: Filters): boolean {
  const quality = track.quality >= 3 ? filters.high : track.quality === 2 ? filters.loose : filters.rest;
  return quality && track.pt >= filters.ptMin && track.nHits >= filters.nHitsMin && (filters.vertex === null || track.vertex === filters.vertex);
}

export const QUALITY = ["bad", "duplicate", "loose", "high purity"] as const;
