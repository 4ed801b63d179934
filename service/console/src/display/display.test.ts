import { strict as assert } from "node:assert";
import { test } from "node:test";
import type { EventDetail, Geometry } from "../types";
import { compare } from "../order";
import { at, curvature, type Helix, length, polyline, wayTo } from "./helix";
import { blend, ofPt, ofVertex } from "./palette";
import { FILTERS, Scene } from "./scene";
import { distance2, fit, niceStep, pan, ticks, toPixelX, toPixelY, toWorldX, toWorldY, zoom } from "./viewport";

const TESLA = 3.8;
const near = (a: number, b: number, within: number): void => assert.ok(Math.abs(a - b) <= within, `${a} is not ${b} within ${within}`);

/** As the fit of the reconstruction gave them for an event of the shipped sample, with the hits that it took. */
const REAL: { track: Helix; hits: [number, number, number][] }[] = [
  {"track":{"pt":2.58194,"eta":-1.7798,"phi":0.14614,"tip":-0.00023,"zip":-1.41338,"charge":1.0},"hits":[[3.05317,0.42836,-10.293],[6.90177,0.9077,-21.46267],[10.57403,1.30226,-32.1073],[12.55278,1.48761,-37.86492],[15.87154,1.76344,-47.48819]]},
  {"track":{"pt":0.69841,"eta":2.00604,"phi":0.16069,"tip":0.02357,"zip":5.27876,"charge":-1.0},"hits":[[3.02215,0.54412,16.48889],[7.22295,1.60053,32.30191],[9.32128,2.25168,40.25635],[11.07218,2.85712,46.96068]]},
  {"track":{"pt":5.44989,"eta":-1.79032,"phi":0.35739,"tip":0.00485,"zip":-1.42328,"charge":1.0},"hits":[[2.88364,1.06103,-10.3715],[6.23863,2.27522,-20.76286],[10.13351,3.64864,-32.78913],[11.8575,4.25191,-38.10845],[14.90065,5.27915,-47.47507]]},
  {"track":{"pt":65.66664,"eta":-1.73403,"phi":0.37394,"tip":-0.00437,"zip":-1.42142,"charge":1.0},"hits":[[2.86553,1.12864,-9.87145],[6.18543,2.42728,-19.64962],[9.86133,3.86468,-30.47741],[12.40676,4.85645,-37.97549]]},
  {"track":{"pt":0.84185,"eta":-1.92837,"phi":0.37338,"tip":-0.02035,"zip":-1.47176,"charge":-1.0},"hits":[[2.84482,1.20591,-11.87266],[6.08039,2.72746,-23.9106],[8.58758,4.04591,-33.40892],[9.70027,4.67301,-37.6819],[12.34049,6.25744,-47.98574]]},
  {"track":{"pt":4.29261,"eta":-0.90092,"phi":1.04158,"tip":-0.00294,"zip":-1.40773,"charge":-1.0},"hits":[[1.42025,2.4547,-4.3226],[3.45804,6.04708,-8.56727],[5.2891,9.34875,-12.44873],[7.7095,13.84648,-17.69653]]},
  {"track":{"pt":1.99594,"eta":-0.84406,"phi":1.07036,"tip":-0.00251,"zip":-4.31641,"charge":1.0},"hits":[[1.53683,2.75615,-7.30799],[3.46146,6.04493,-10.91964],[5.43819,9.26734,-14.50509],[8.21799,13.54171,-19.34081]]},
  {"track":{"pt":0.7189,"eta":-0.08939,"phi":1.06178,"tip":-0.0071,"zip":-4.32398,"charge":-1.0},"hits":[[1.45304,2.7786,-4.60255],[3.06008,6.29714,-4.95505],[4.5187,10.11888,-5.30755],[5.91108,14.70841,-5.72225]]},
  {"track":{"pt":3.06801,"eta":-0.83389,"phi":1.11223,"tip":0.00532,"zip":-1.40776,"charge":1.0},"hits":[[1.40454,2.7916,-4.32656],[3.17862,6.22265,-7.9328],[4.95587,9.53071,-11.44252],[7.60332,14.28022,-16.51823]]},
];

test("tracks of the reconstruction pass through their hits", () => {
  for (const { track, hits } of REAL) {
    for (const [x, y, z] of hits) {
      const point = at(track, 3.8112, wayTo(track, 3.8112, x, y));
      near(Math.hypot(point[0] - x, point[1] - y), 0, 0.02);
      near(point[2], z, 0.15);
    }
  }
});

test("a positive charge turns clockwise, a negative one the other way, by pt / (0.003 B)", () => {
  const track: Helix = { pt: 1, eta: 0, phi: 0, tip: 0, zip: 1, charge: 1 };
  const radius = 1 / (0.00299792458 * TESLA);
  near(1 / curvature(track, TESLA), radius, 1e-9);
  const [x, y, z] = at(track, TESLA, (radius * Math.PI) / 2);
  near(x, radius, 1e-6);
  near(y, -radius, 1e-6);
  assert.equal(z, 1);
  near(at({ ...track, charge: -1 }, TESLA, (radius * Math.PI) / 2)[1], radius, 1e-6);
});

test("tip is on the right of the direction of flight, zip is where the track begins", () => {
  const [x, y, z] = at({ pt: 2, eta: 1, phi: Math.PI / 2, tip: 0.3, zip: -4, charge: 1 }, TESLA, 0);
  near(x, 0.3, 1e-12);
  near(y, 0, 1e-12);
  assert.equal(z, -4);
});

test("without a field tracks are straight, and the way is the distance", () => {
  const track: Helix = { pt: 1, eta: 0.5, phi: 0.7, tip: 0.1, zip: 0, charge: 1 };
  const [x, y] = at(track, 0, 10);
  near(wayTo(track, 0, x, y), 10, 1e-9);
  assert.equal(polyline(track, 0, 10).length, 9);
});

test("the way to a point of the track is found for all tracks", () => {
  for (const pt of [0.2, 1, 50]) {
    for (const charge of [-1, 1]) {
      for (let phi = -3; phi <= 3; phi += 0.5) {
        const track: Helix = { pt, eta: -1.2, phi, tip: -0.4, zip: 2, charge };
        const [x, y] = at(track, TESLA, 9);
        near(wayTo(track, TESLA, x, y), 9, 1e-6);
      }
    }
  }
});

test("a track ends behind its last hit, and never goes around again", () => {
  const hard: Helix = { pt: 10, eta: 0, phi: 0, tip: 0, zip: 0, charge: 1 };
  near(length(hard, TESLA, [at(hard, TESLA, 16), at(hard, TESLA, 3)], 0.8, 3), 16.8, 1e-6);
  assert.equal(length(hard, TESLA, [], 0.5, 3), 3.5);
  const soft = { ...hard, pt: 0.01 };
  assert.ok(length(soft, TESLA, [], 0, 30) < Math.PI / curvature(soft, TESLA));
  assert.ok(polyline(soft, TESLA, length(soft, TESLA, [], 0, 30)).length <= 3 * 65);
});

test("pixels and the plane agree, zoom keeps what is under the cursor, pan moves with it", () => {
  const home = fit({ x0: -50, x1: 50, y0: 0, y1: 20 }, 400, 200, [40, 10, 10, 30], false);
  near(toPixelX(home, -50), 40, 1e-9);
  near(toPixelX(home, 50), 390, 1e-9);
  near(toPixelY(home, 20), 10, 1e-9);
  near(toPixelY(home, 0), 170, 1e-9);
  const closer = zoom(home, 123, 45, 3, home);
  near(toWorldX(closer, 123), toWorldX(home, 123), 1e-9);
  near(toWorldY(closer, 45), toWorldY(home, 45), 1e-9);
  near(closer.sx, 3 * home.sx, 1e-9);
  assert.ok(zoom(closer, 0, 0, 1e9, home).sx <= 400.1 * home.sx);
  near(toPixelX(pan(home, 12, -7), toWorldX(home, 100)), 112, 1e-9);
  near(toPixelY(pan(home, 12, -7), toWorldY(home, 100)), 93, 1e-9);
});

test("one scale for both directions where angles count", () => {
  const view = fit({ x0: -16, x1: 16, y0: -16, y1: 16 }, 300, 200, [0, 0, 0, 0], true);
  assert.equal(view.sx, view.sy);
  near(view.sy * 32, 200, 1e-9);
});

test("axes have round numbers", () => {
  assert.deepEqual(ticks(-50, 50, 500, 100), [-40, -20, 0, 20, 40]);
  assert.deepEqual(ticks(0.01, 0.31, 300, 100), [0.1, 0.2, 0.3]);
  assert.deepEqual([0.9, 1, 1.1, 3, 7, 0.03].map(niceStep).map((step) => Number(step.toPrecision(6))), [1, 1, 2, 5, 10, 0.05]);
});

test("distance to a segment, its ends and a point", () => {
  assert.equal(distance2(0, 5, -10, 0, 10, 0), 25);
  assert.equal(distance2(13, 4, -10, 0, 10, 0), 25);
  assert.equal(distance2(3, 4, 0, 0, 0, 0), 25);
});

test("colours: ends of scales hold beyond them, tracks without a vertex are grey, neighbours differ", () => {
  assert.equal(blend([[0, 0, 0], [255, 255, 255]], 0.5), "#808080");
  assert.equal(ofPt(1e-3, "dark"), ofPt(0.3, "dark"));
  assert.equal(ofPt(1e3, "light"), ofPt(30, "light"));
  assert.equal(blend([[1, 2, 3], [4, 5, 6]], NaN), "#010203");
  assert.notEqual(ofVertex(0, "dark"), ofVertex(1, "dark"));
  assert.equal(ofVertex(-1, "dark"), "#6b7c90");
});

function event(): EventDetail {
  const tracks = {
    pt: [5, 0.6, 1], eta: [0, 1, -1], phi: [0, 1, 2], tip: [0, 0, 0], zip: [0, 0, 3], chi2: [1, 1, 1], charge: [1, -1, 1], n_hits: [4, 3, 3], quality: [3, 2, 1],
    score: [0.99, 0.2, 0], hit_offsets: [0, 4, 7, 10], hits: [0, 1, 2, 3, 3, 4, 5, 5, 6, 7], vertex: [0, -1, 1],
  };
  const hits = { x: [3, 7, 11, 16, 2, 5, 1, 2], y: [0, 0, 0, 0, 3, 8, 3, 6], z: [0, 0, 0, 0, 4, 9, 0, 0], layer: [0, 1, 2, 3, 0, 1, 0, 1], charge: new Array<number>(8).fill(20_000) };
  const vertices = { z: [0, 3], ndof: [5, 3], chi2: [4, 2], sum_pt2: [25, 1], n_tracks: [6, 4] };
  return { meta: {} as EventDetail["meta"], counts: {}, flags: [], hits, tracks, vertices, beam_spot: { x: 0.1, y: 0, z: 0 }, field_tesla: 3.8 };
}

const geometry: Geometry = { detector: "small", layers: [0, 1, 2, 3].map((id) => ({ id, name: `B${id}`, part: "barrel", r_min: 3 + 4 * id, r_max: 3.5 + 4 * id, z_min: -27, z_max: 27, modules: 8 })) };

test("hits belong to the best of their tracks", () => {
  const scene = new Scene(event(), geometry);
  assert.deepEqual(Array.from(scene.trackOfHit), [0, 0, 0, 0, 1, 1, 2, 2]);
  assert.deepEqual(scene.tracks.map((track) => track.hits), [[0, 1, 2, 3], [3, 4, 5], [5, 6, 7]]);
  assert.deepEqual(scene.extent, { r: 15.6, z: 27 });
});

test("filters: momentum, hits, quality, vertex; hits of the tracks that are left", () => {
  const scene = new Scene(event(), geometry);
  const left = (change: Partial<typeof FILTERS>): number[] => scene.visible({ ...FILTERS, ...change }).map((track) => track.index);
  assert.deepEqual(left({}), [0, 1]);
  assert.deepEqual(left({ rest: true }), [0, 1, 2]);
  assert.deepEqual(left({ ptMin: 1, rest: true }), [0, 2]);
  assert.deepEqual(left({ nHitsMin: 4 }), [0]);
  assert.deepEqual(left({ high: false, rest: true }), [1, 2]);
  assert.deepEqual(left({ loose: false }), [0]);
  assert.deepEqual(left({ vertex: 1, rest: true }), [2]);
  const two = scene.visible({ ...FILTERS, high: false, rest: true });
  assert.deepEqual(scene.hitsShown({ ...FILTERS, hits: "tracks" }, two).sort(), [3, 4, 5, 6, 7]);
  assert.deepEqual(scene.hitsShown({ ...FILTERS, hits: "none" }, two), []);
  assert.equal(scene.hitsShown(FILTERS, two).length, 8);
});

test("sorting: numbers by size, names as people read them, nothing last", () => {
  assert.deepEqual([10, 9, null, -1, NaN].sort(compare).slice(0, 3), [-1, 9, 10]);
  assert.deepEqual(["worker-10", "worker-2", "Worker-1"].sort(compare), ["Worker-1", "worker-2", "worker-10"]);
});
