// Builds the console into static/ (what the control plane serves), or with --tests the tests of its pure parts into OUT.
// File names carry a hash of what is in them, so that a browser may keep them for ever. Nothing is loaded from elsewhere.
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const [mode, folder] = process.argv[2] === "--tests" ? ["tests", process.argv[3]] : ["page", join(here, "static")];
if (folder === undefined) throw new Error("node build.mjs --tests OUT");

/** Licences of what is in the bundle, as their packages have them. */
function licences(bundled) {
  const names = new Set([...bundled].map((file) => file.match(/node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1]).filter(Boolean));
  const texts = [...names].sort().map((name) => {
    const root = join(here, "node_modules", name);
    const file = readdirSync(root).find((entry) => /^licen[cs]e/i.test(entry));
    if (file === undefined) throw new Error(`${name} has no file with its licence`);
    const { version, license, homepage } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
    return `${name} ${version} (${license}) ${homepage ?? ""}\n\n${readFileSync(join(root, file), "utf8").trim()}\n`;
  });
  return `The console of hltfarm contains:\n\n${texts.join(`\n${"-".repeat(100)}\n\n`)}`;
}

function page(outputs) {
  const named = (suffix) => Object.keys(outputs).find((name) => outputs[name].entryPoint === "src/main.ts" && name.endsWith(suffix));
  const script = named(".js");
  const style = outputs[script].cssBundle;
  const icon = readFileSync(join(here, "src", "icon.svg"));
  const iconName = `assets/icon-${createHash("sha256").update(icon).digest("hex").slice(0, 8)}.svg`;
  const url = (name) => relative("out", name).replaceAll("\\", "/");
  const html = readFileSync(join(here, "index.html"), "utf8")
    .replace("%STYLE%", url(style))
    .replace("%SCRIPT%", url(script))
    .replace("%ICON%", iconName);
  return { html, icon, iconName };
}

if (mode === "tests") {
  const tests = readdirSync(join(here, "src"), { recursive: true }).filter((name) => name.endsWith(".test.ts"));
  await build({
    absWorkingDir: here, entryPoints: tests.map((name) => join("src", name)), outdir: folder, bundle: true, platform: "node", format: "esm",
    outExtension: { ".js": ".mjs" }, external: ["node:*"], logLevel: "warning", target: "node20",
  });
} else {
  const result = await build({
    absWorkingDir: here, entryPoints: ["src/main.ts"], outdir: "out", write: false, metafile: true, bundle: true, splitting: true, format: "esm",
    minify: true, target: ["es2022", "firefox115", "safari16"], entryNames: "assets/[name]-[hash]", chunkNames: "assets/[name]-[hash]",
    assetNames: "assets/[name]-[hash]", loader: { ".woff2": "file" }, legalComments: "none", logLevel: "warning",
  });
  const { html, icon, iconName } = page(result.metafile.outputs);
  const fresh = `${folder}.new`;
  rmSync(fresh, { recursive: true, force: true });
  mkdirSync(join(fresh, "assets"), { recursive: true });
  for (const file of result.outputFiles) writeFileSync(join(fresh, relative(join(here, "out"), file.path)), file.contents);
  writeFileSync(join(fresh, iconName), icon);
  writeFileSync(join(fresh, "index.html"), html);
  writeFileSync(join(fresh, "licenses.txt"), licences(Object.keys(result.metafile.inputs)));
  rmSync(folder, { recursive: true, force: true });
  renameSync(fresh, folder);
}
