// The event in three dimensions. Nothing is drawn while nothing changes; the loop of the camera runs only while it moves.
import {
  BufferAttribute, BufferGeometry, Color, Group, LineBasicMaterial, type Material, LineSegments, PerspectiveCamera, Points, PointsMaterial, Scene as World, Vector3, WebGLRenderer,
} from "three";
import { OrbitControls } from "three/examples/jsm/controls/OrbitControls.js";
import { Line2 } from "three/examples/jsm/lines/Line2.js";
import { LineGeometry } from "three/examples/jsm/lines/LineGeometry.js";
import { LineMaterial } from "three/examples/jsm/lines/LineMaterial.js";
import { h } from "../dom";
import { colour, theme } from "../theme";
import type { Drawn } from "./drawn";
import type { Scene, Track } from "./scene";
import { distance2 } from "./viewport";

const REACH_PX = 9;
/** Where the camera looks from, at first. */
const VIEW = new Vector3(0.72, 0.3, 0.62).normalize();

export class Space {
  readonly element: HTMLElement;
  readonly canvas: HTMLCanvasElement;
  private readonly renderer: WebGLRenderer;
  private readonly world = new World();
  private readonly camera = new PerspectiveCamera(38, 1, 0.1, 2000);
  private readonly controls: OrbitControls;
  private readonly detector = new Group();
  private readonly event = new Group();
  private readonly marks = new Group();
  private scene: Scene | null = null;
  private frame = 0;
  private untouched = true;
  private pressed: { x: number; y: number } | null = null;

  /** Throws where the browser has no WebGL. */
  constructor(private readonly drawn: Drawn) {
    this.renderer = new WebGLRenderer({ antialias: true, alpha: true, preserveDrawingBuffer: true });
    this.renderer.setPixelRatio(Math.min(2, window.devicePixelRatio || 1));
    this.canvas = this.renderer.domElement;
    this.canvas.className = "plane space";
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", "The event in three dimensions");
    this.element = h("figure", { class: "projection" }, this.canvas, h("figcaption", {}, "3-D"));
    this.world.add(this.detector, this.event, this.marks);
    this.controls = new OrbitControls(this.camera, this.canvas);
    this.controls.addEventListener("change", () => this.redraw());
    this.controls.zoomToCursor = true;
    this.controls.addEventListener("start", () => (this.untouched = false));
    new ResizeObserver(() => this.resize()).observe(this.element);
    drawn.listen((what) => {
      if (what === "all") this.rebuild();
      this.mark();
    });
    this.canvas.addEventListener("pointerdown", (event) => (this.pressed = { x: event.offsetX, y: event.offsetY }));
    this.canvas.addEventListener("pointerup", (event) => this.up(event));
    this.canvas.addEventListener("dblclick", () => this.reset());
    this.reset();
    this.rebuild();
    this.mark();
  }

  reset(): void {
    const { r, z } = this.drawn.scene?.extent ?? { r: 16, z: 50 };
    this.controls.target.set(0, 0, 0);
    // the nearest place from which the whole detector is seen: its ends as circles of points
    const corner = new Vector3();
    for (let distance = z; distance < 10 * z; distance *= 1.04) {
      this.camera.position.copy(VIEW).multiplyScalar(distance);
      this.controls.update();
      this.camera.updateMatrixWorld();
      let most = 0;
      for (let i = 0; i < 16; i += 1) {
        corner.set(r * Math.cos((i * Math.PI) / 4), r * Math.sin((i * Math.PI) / 4), i < 8 ? z : -z).project(this.camera);
        most = Math.max(most, Math.abs(corner.x), Math.abs(corner.y), corner.z > 1 ? 2 : 0);
      }
      if (most < 0.95) break;
    }
    this.redraw();
  }

  redraw(): void {
    if (this.frame !== 0) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.renderer.render(this.world, this.camera);
    });
  }

  private resize(): void {
    const { clientWidth: width, clientHeight: height } = this.element;
    if (width < 10 || height < 10) return;
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / height;
    this.camera.updateProjectionMatrix();
    if (this.untouched) this.reset();
    this.redraw();
  }

  private rebuild(): void {
    const { scene } = this.drawn;
    empty(this.event);
    empty(this.detector);
    if (scene !== null) {
      this.detector.add(...this.frameOf(scene));
      this.event.add(this.hitsOf(scene), this.tracksOf(scene), this.verticesOf(scene));
      const { x, y, z } = scene.spot;
      this.detector.position.set(-x, -y, -z);
      if (this.scene === null) this.reset();
    }
    this.scene = scene;
    this.redraw();
  }

  /** Outlines of the modules; circles of the layers where the detector has no corners. */
  private frameOf(scene: Scene): LineSegments[] {
    const corners = scene.geometry.modules?.corners ?? [];
    const points: number[] = [];
    for (let i = 0; i + 11 < corners.length; i += 12) {
      for (let c = 0; c < 4; c += 1) {
        const [a, b] = [i + 3 * c, i + 3 * ((c + 1) % 4)];
        points.push(corners[a] ?? 0, corners[a + 1] ?? 0, corners[a + 2] ?? 0, corners[b] ?? 0, corners[b + 1] ?? 0, corners[b + 2] ?? 0);
      }
    }
    if (points.length === 0) {
      for (const { r_min, r_max, z_min, z_max } of scene.geometry.layers) {
        const r = (r_min + r_max) / 2;
        for (const z of [z_min, z_max]) {
          for (let i = 0; i < 64; i += 1) {
            const [a, b] = [(i * Math.PI) / 32, ((i + 1) * Math.PI) / 32];
            points.push(r * Math.cos(a), r * Math.sin(a), z, r * Math.cos(b), r * Math.sin(b), z);
          }
        }
      }
    }
    const geometry = new BufferGeometry();
    geometry.setAttribute("position", new BufferAttribute(new Float32Array(points), 3));
    return [new LineSegments(geometry, new LineBasicMaterial({ color: colour("wire"), transparent: true, opacity: theme() === "dark" ? 0.1 : 0.16, depthWrite: false }))];
  }

  private hitsOf(scene: Scene): Points {
    const { x, y, z, layer } = scene.event.hits;
    const { hits } = this.drawn;
    const positions = new Float32Array(3 * hits.length);
    const colours = new Float32Array(3 * hits.length);
    const tone = theme();
    const tints = new Map(scene.geometry.layers.map(({ id }) => [id, new Color(scene.colourOfLayer(id, tone))]));
    const other = new Color(colour("muted"));
    hits.forEach((hit, i) => {
      positions.set([x[hit] ?? 0, y[hit] ?? 0, z[hit] ?? 0], 3 * i);
      (tints.get(layer[hit] ?? -1) ?? other).toArray(colours, 3 * i);
    });
    const geometry = new BufferGeometry();
    geometry.setAttribute("position", new BufferAttribute(positions, 3));
    geometry.setAttribute("color", new BufferAttribute(colours, 3));
    const points = new Points(geometry, new PointsMaterial({ size: 1.8 * this.renderer.getPixelRatio(), sizeAttenuation: false, vertexColors: true, transparent: true }));
    points.userData["opacity"] = 0.75;
    return points;
  }

  private tracksOf(scene: Scene): LineSegments {
    const positions: number[] = [];
    const colours: number[] = [];
    const tone = theme();
    const tint = new Color();
    for (const track of this.drawn.visible) {
      tint.set(scene.colourOfTrack(track, this.drawn.filters.colourBy, tone));
      const { path } = track;
      const alpha = track.pt < 1 ? 0.4 : track.pt < 3 ? 0.7 : 1;
      for (let i = 0; i + 5 < path.length; i += 3) {
        for (let j = 0; j < 6; j += 1) positions.push(path[i + j] as number);
        colours.push(tint.r, tint.g, tint.b, alpha, tint.r, tint.g, tint.b, alpha);
      }
    }
    const geometry = new BufferGeometry();
    geometry.setAttribute("position", new BufferAttribute(new Float32Array(positions), 3));
    geometry.setAttribute("color", new BufferAttribute(new Float32Array(colours), 4));
    return new LineSegments(geometry, new LineBasicMaterial({ vertexColors: true, transparent: true, depthWrite: false }));
  }

  private verticesOf(scene: Scene): Points {
    const only = this.drawn.filters.vertex;
    const shown = scene.vertices.filter((vertex) => only === null || vertex.index === only);
    const positions = new Float32Array(shown.flatMap((vertex) => [0, 0, vertex.z]));
    const tint = new Color();
    const tone = theme();
    const colours = new Float32Array(shown.flatMap((vertex) => tint.set(scene.colourOfTrack({ vertex: vertex.index } as Track, "vertex", tone)).toArray()));
    const geometry = new BufferGeometry();
    geometry.setAttribute("position", new BufferAttribute(positions, 3));
    geometry.setAttribute("color", new BufferAttribute(colours, 3));
    return new Points(geometry, new PointsMaterial({ size: 6 * this.renderer.getPixelRatio(), sizeAttenuation: false, vertexColors: true, depthTest: false }));
  }

  private mark(): void {
    empty(this.marks);
    const share = this.drawn.picked === null ? 1 : 0.3;
    for (const child of this.event.children) if (child instanceof LineSegments || child instanceof Points) (child.material as Material).opacity = share * ((child.userData["opacity"] as number | undefined) ?? 1);
    const { scene } = this.drawn;
    if (scene !== null) {
      for (const [track, name, width] of [[this.drawn.hoveredTrack, "text", 2], [this.drawn.pickedTrack, "picked", 3.5]] as const) {
        if (track === null) continue;
        const line = new Line2(new LineGeometry().setPositions(track.path), new LineMaterial({ color: new Color(colour(name)).getHex(), linewidth: width, depthTest: false }));
        const geometry = new BufferGeometry();
        const { x, y, z } = scene.event.hits;
        geometry.setAttribute("position", new BufferAttribute(new Float32Array(track.hits.flatMap((hit) => [x[hit] ?? 0, y[hit] ?? 0, z[hit] ?? 0])), 3));
        this.marks.add(line, new Points(geometry, new PointsMaterial({ size: 7 * this.renderer.getPixelRatio(), sizeAttenuation: false, color: colour(name), depthTest: false })));
      }
    }
    this.redraw();
  }

  private up(event: PointerEvent): void {
    const from = this.pressed;
    this.pressed = null;
    if (from === null || event.button !== 0 || Math.hypot(event.offsetX - from.x, event.offsetY - from.y) > 4) return;
    this.drawn.pick(this.nearest(event.offsetX, event.offsetY)?.index ?? null);
  }

  private nearest(px: number, py: number): Track | null {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const point = new Vector3();
    let best: Track | null = null;
    let least = REACH_PX * REACH_PX;
    for (const track of this.drawn.visible) {
      let [ax, ay] = [NaN, NaN];
      for (let i = 0; i < track.path.length; i += 3) {
        point.fromArray(track.path, i).project(this.camera);
        const [bx, by] = [((point.x + 1) / 2) * width, ((1 - point.y) / 2) * height];
        const d = point.z > 1 ? NaN : distance2(px, py, ax, ay, bx, by);
        if (d < least) [least, best] = [d, track];
        [ax, ay] = [bx, by];
      }
    }
    return best;
  }
}

/** Remove what is in a group, with what it holds on the GPU. */
function empty(group: Group): void {
  for (const child of [...group.children]) {
    if (child instanceof LineSegments || child instanceof Points || child instanceof Line2) {
      child.geometry.dispose();
      child.material.dispose();
    }
    group.remove(child);
  }
}
