// Packages compiled by Emscripten, from C and C++: the module measures its memory, and the
// package's JavaScript grows it.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

import { bytes, numbers, prose } from "../inputs.mjs";

const require = createRequire(import.meta.url);

async function sqlite() {
  const SQL = await require("sql.js")();
  const database = new SQL.Database();
  // The main database is a file in JavaScript's heap; an attached one can live in the module's.
  database.run("ATTACH DATABASE ':memory:' AS inside");
  database.run("CREATE TABLE inside.t (id INTEGER PRIMARY KEY, word TEXT, payload BLOB)");
  const results = [];
  const blobs = bytes(200_000);
  for (let i = 0; i < 400; i++) {
    database.run("BEGIN");
    for (let j = 0; j < 10; j++) {
      database.run("INSERT INTO inside.t (word, payload) VALUES (?, ?)", [prose(3, i * 10 + j + 1), blobs.subarray(i * 240 + j, i * 240 + j + 100_000)]);
    }
    database.run("COMMIT");
  }
  results.push(database.exec("SELECT word, count(*), sum(length(payload)) FROM inside.t GROUP BY substr(word, 1, 4) ORDER BY word"));
  results.push(database.exec("SELECT hex(substr(payload, 5000, 20)) FROM inside.t ORDER BY id DESC LIMIT 50"));
  return results;
}

const LUA = `
  local kept, sum = {}, 0
  for i = 1, 1000000 do kept[i] = { i, tostring(i) .. "x", i * 1.5 } end
  for i, row in ipairs(kept) do sum = sum + #row[2] + row[3] end
  local parts = {}
  for i = 1, 200 do parts[i] = string.rep(tostring(i), 10000) end
  local text = table.concat(parts)
  return sum .. " " .. #text .. " " .. select(2, text:gsub("99", "")) .. " " .. text:sub(-20)
`;

async function lua() {
  const { LuaFactory } = require("wasmoon");
  const engine = await new LuaFactory().createEngine();
  return [await engine.doString(LUA)];
}

const PYTHON = `
kept = []
for i in range(250000):
    kept.append([i, str(i) + "x", i * 1.5])
total = sum(len(row[1]) + row[2] for row in kept)
blobs = [bytes((i * j) & 255 for j in range(2000)) for i in range(200)]
text = "".join(str(i) * 500 for i in range(300))
answer = str(total) + " " + str(sum(b[-1] for b in blobs)) + " " + str(text.count("99")) + " " + str(2 ** 4000 % 10 ** 40)
`;

async function python() {
  const { loadMicroPython } = await import("@micropython/micropython-webassembly-pyscript/micropython.mjs");
  const interpreter = await loadMicroPython({ heapsize: 64 * 1024 });
  interpreter.runPython(PYTHON);
  return [interpreter.globals.get("answer")];
}

async function quickjs({ pinnedMemory }) {
  const { newQuickJSWASMModuleFromVariant, newVariant, RELEASE_SYNC } = require("quickjs-emscripten");
  // It imports its memory, so who pins the module must pin what it is given.
  const variant = pinnedMemory ? newVariant(RELEASE_SYNC, { wasmMemory: pinnedMemory() }) : RELEASE_SYNC;
  const module = await newQuickJSWASMModuleFromVariant(variant);
  const context = module.newContext();
  const value = context.unwrapResult(
    context.evalCode(`
      const kept = [];
      for (let i = 0; i < 400000; i++) kept.push({ i, text: i + "x", half: i / 2 });
      const sum = kept.reduce((sum, row) => sum + row.text.length + row.half, 0);
      sum + " " + kept.map((row) => row.text).join("").length + " " + 3n ** 500n;
    `),
  );
  return [context.dump(value)];
}

async function oniguruma() {
  const { loadWASM, createOnigScanner, createOnigString } = require("vscode-oniguruma");
  await loadWASM(readFileSync(require.resolve("vscode-oniguruma/release/onig.wasm")));
  const results = [];
  const alive = [];
  for (let i = 0; i < 300; i++) {
    const scanner = createOnigScanner(["(?<=page )(\\w+)", `\\b${i}\\d*\\.`, "(memory|table)\\s+(?!page)\\w+"]);
    const text = createOnigString(prose(50_000, i + 1));
    alive.push(scanner, text);
    for (let at = 0, found; at < 1500 && (found = scanner.findNextMatchSync(text, at)); ) {
      results.push(found.index, found.captureIndices.map(({ start, end }) => [start, end]));
      at = found.captureIndices[0].end + 1;
    }
  }
  return results;
}

async function clangFormat() {
  const { format, version } = await import("@wasm-fmt/clang-format/node");
  const results = [version()];
  for (let count = 100; count <= 1000; count += 300) {
    const next = numbers(count);
    const source = Array.from(
      { length: count },
      (_, i) =>
        `template<typename T>static  int f${i}(T x,int *y){for(int i=0;i<${next(99)};++i){if(x>y[i]){x+=g(${next(9)},` +
        `y,x,[&](auto z){return z*${next(99)};});}else{switch(x){case ${next(9)}:break;default:return -1;}}}return x;}`,
    ).join("\n");
    for (const style of ["LLVM", "Google"]) results.push(format(source, "main.cc", style));
  }
  return results;
}

async function zxing() {
  const { prepareZXingModule, readBarcodes, writeBarcode } = await import("zxing-wasm/full");
  const wasmBinary = new Uint8Array(readFileSync(require.resolve("zxing-wasm/full/zxing_full.wasm"))).buffer;
  await prepareZXingModule({ overrides: { wasmBinary }, fireImmediately: true });
  const results = [];
  for (let scale = 2; scale <= 42; scale += 8) {
    const text = prose(60, scale).slice(0, 500);
    const { image, svg } = await writeBarcode(text, { format: "QRCode", scale });
    const read = await readBarcodes(image, { tryHarder: true, formats: ["QRCode"] });
    results.push(svg, new Uint8Array(await image.arrayBuffer()), read.map((code) => code.text));
    if (read[0]?.text !== text) throw new Error(`the code was not read back at scale ${scale}`);
  }
  return results;
}

async function yoga() {
  const { loadYoga } = await import("yoga-layout/load");
  const Yoga = await loadYoga();
  const results = [];
  const alive = [];
  for (let i = 0; i < 300; i++) {
    const next = numbers(i + 1);
    const root = Yoga.Node.create();
    root.setWidth(800);
    root.setFlexWrap(Yoga.WRAP_WRAP);
    root.setFlexDirection(Yoga.FLEX_DIRECTION_ROW);
    for (let j = 0; j < 600; j++) {
      const child = Yoga.Node.create();
      child.setMinWidth(10 + next(90));
      child.setHeight(5 + next(40));
      child.setFlexGrow(next(3));
      child.setMargin(Yoga.EDGE_ALL, next(7));
      root.insertChild(child, j);
      alive.push(child);
    }
    root.calculateLayout(undefined, undefined, Yoga.DIRECTION_LTR);
    alive.push(root);
    results.push(root.getComputedHeight());
    for (const j of [0, 99, 599]) results.push(root.getChild(j).getComputedLayout());
  }
  return results;
}

export const emscripten = [
  { name: "sql.js", toolchain: "Emscripten, C", work: "SQLite: 4,000 rows of 100 KB", use: sqlite },
  { name: "wasmoon", toolchain: "Emscripten, C", work: "Lua: 1,000,000 tables", use: lua },
  { name: "@micropython/micropython-webassembly-pyscript", toolchain: "Emscripten, C", work: "Python: 250,000 lists", use: python },
  { name: "quickjs-emscripten", toolchain: "Emscripten, C", work: "JavaScript: 400,000 objects", use: quickjs },
  { name: "vscode-oniguruma", toolchain: "Emscripten, C", work: "300 scanners and texts held open", use: oniguruma },
  { name: "@wasm-fmt/clang-format", toolchain: "Emscripten, C++", work: "4 sources formatted in 2 styles", use: clangFormat },
  { name: "zxing-wasm", toolchain: "Emscripten, C++", work: "6 QR codes written and read back", use: zxing },
  { name: "yoga-layout", toolchain: "Emscripten, C++", work: "300 layouts of 600 boxes held", use: yoga },
];
