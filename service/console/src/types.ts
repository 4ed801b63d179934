// Shapes of the HTTP interface, as docs/console.md and /openapi.json have them; only what the console reads.

export interface Ledger {
  received: number;
  accepted: number;
  rejected: number;
  error: number;
  in_flight: number;
  duplicates: number;
  mismatch: number;
}

export interface LoadedModel {
  name: string;
  version: number;
  hash: string;
  kind: string;
  target: string;
  engine: string;
  working_point: string | null;
}

export interface Transition {
  id: string;
  command: string;
  run: number | null;
  worker: string | null;
  progress: "pending" | "done" | "failed";
  seconds: number;
  error: string | null;
  lumisection: number | null;
}

export interface Ingest {
  endpoint: string;
  clients_url: string | null;
  up: boolean;
  state: string | null;
  error: string | null;
  clients: number | null;
  ledger: Ledger | null;
}

export interface Status {
  state: string;
  legal: string[];
  run: number | null;
  menu_hash: string | null;
  selector: LoadedModel | null;
  event_model: LoadedModel | null;
  ledger: Ledger | null;
  totals: Ledger | null;
  rates: { received_hz: number; decided_hz: number; accepted_hz: number; bytes_per_s: number; over_s: number };
  workers_ready: number;
  workers: number;
  queue_events: number | null;
  clients: number | null;
  ready: boolean;
  problems: string[];
  ingests: Ingest[];
  pending: Transition[];
}

/** A column of the history: null where nothing is known. */
export type Samples = (number | null)[];

export interface HistoryAnswer {
  interval_s: number;
  time: number[];
  state: string[];
  received_hz: Samples;
  accepted_hz: Samples;
  rejected_hz: Samples;
  error_hz: Samples;
  in_flight: Samples;
  mb_per_s: Samples;
  latency_p50_ms: Samples;
  latency_p99_ms: Samples;
  workers_ready: Samples;
  workers: Samples;
  paths: Record<string, Samples>;
  stages_ms: Record<string, Samples>;
}

export interface Access {
  who: string;
  role: string;
  tokens: boolean;
  problem: string | null;
}

export interface WorkerProcess {
  name: string;
  role: string;
  phase: string;
  pid: number | null;
  restarts: number;
  last_exit: string | null;
  reason: string | null;
}

export interface Worker {
  name: string;
  joined: boolean;
  backend: string | null;
  device: string | null;
  host: string | null;
  up: boolean;
  ready: boolean;
  credit_events: number;
  in_flight: number;
  processed: number;
  restarts: number;
  leaving: boolean;
  quarantined: string | null;
  resident_bytes: number | null;
  gpu: { index: number; uuid: string; memory_used_bytes: number; memory_total_bytes: number; utilization: number } | null;
  process: WorkerProcess | null;
}

export interface Path {
  name: string;
  stream: string;
  prescale: number;
  description: string;
  active: boolean;
  events: number;
  accepted: number;
  prescaled: number;
  rate_hz: number;
  fraction: number | null;
  fraction_low: number | null;
  fraction_high: number | null;
}

export interface Programme {
  first_lumi: number;
  menu_hash: string;
  menu: string;
  models: LoadedModel[];
  accepted: number;
  rejected: number;
  current: boolean;
}

export interface Programmes {
  run: number | null;
  lumisection: number;
  programmes: Programme[];
  pending: { menu: string; model: string; event_model: string; waits_for: string[]; error: string | null } | null;
  shadow: boolean;
}

export interface Share {
  fraction: number;
  low: number;
  high: number;
  rate_hz: number;
}

export interface Shadow {
  menu_hash: string;
  events_fraction: number;
  waits_for: string[];
  error: string | null;
  events: number;
  failed: number;
  matrix: { both: number; active_only: number; shadow_only: number; neither: number };
  paths: Record<string, { both: number; active_only: number; shadow_only: number }>;
  active: Share;
  shadow: Share;
}

export interface ErrorEvent {
  time: string;
  ingest: string;
  run: number;
  lumi: number;
  event: number;
  bx: number;
  reason: string;
  stage: string | null;
  worker: string | null;
  attempts: number;
  error: string | null;
  bundle: string | null;
  size_bytes: number;
  id: string | null;
}

export interface Run {
  number: number;
  farm: string;
  detector: string;
  menu_hash: string;
  models: LoadedModel[] | null;
  outcome: string;
  created: string;
  started: string | null;
  stopped: string | null;
  ledger: Ledger | null;
}

export interface Audit {
  id: number;
  time: string;
  who: string;
  address: string;
  command: string;
  arguments: Record<string, unknown>;
  status: number;
  outcome: string;
  detail: string | null;
  transition: string | null;
}

export interface EventEntry {
  id: string;
  kind: "accepted" | "error";
  run: number;
  lumi: number;
  bx: number;
  event: number;
  ingest: string;
  decided_at: string;
  paths: string[];
  streams: string[];
  reason: string | null;
  worker: string | null;
  digest: string | null;
  size_bytes: number;
}

export interface BeamSpot {
  x: number;
  y: number;
  z: number;
}

export interface EventDetail {
  meta: EventEntry & {
    menu: string | null;
    models: string[];
    digest_equal: boolean | null;
    reconstructed_in_ms: number | null;
    error?: string | null;
  };
  counts: Record<string, number>;
  flags: string[];
  hits: { x: number[]; y: number[]; z: number[]; layer: number[]; charge: number[] };
  tracks: {
    pt: number[];
    eta: number[];
    phi: number[];
    tip: number[];
    zip: number[];
    chi2: number[];
    charge: number[];
    n_hits: number[];
    quality: number[];
    score: number[];
    hit_offsets: number[];
    hits: number[];
    vertex: number[];
  };
  vertices: { z: number[]; ndof: number[]; chi2: number[]; sum_pt2: number[]; n_tracks: number[] };
  /** Null where the event could not be reconstructed. */
  beam_spot: BeamSpot | null;
  field_tesla: number | null;
  occupancy?: { layer: number[]; fired: number[]; pixels: number[] } | null;
}

export interface Layer {
  id: number;
  name: string;
  part: "barrel" | "endcap";
  r_min: number;
  r_max: number;
  z_min: number;
  z_max: number;
  modules: number;
}

export interface Geometry {
  detector: string;
  layers: Layer[];
  modules?: { layer: number[]; corners: number[] } | null;
  beam_spot?: BeamSpot | null;
}
