// Packages from the other toolchains: plain clang, Go, TinyGo and AssemblyScript.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

import { bytes, javascript, numbers } from "../inputs.mjs";

const require = createRequire(import.meta.url);

async function argon2() {
  const { argon2id, argon2Verify } = require("hash-wasm");
  const results = [];
  // Each hash has an instance of its own, whose heap grows to what the hash needs.
  for (let memorySize = 64; memorySize <= 15_664; memorySize += 400) {
    const options = { password: "correct horse", salt: bytes(16), parallelism: 1, iterations: 1, memorySize, hashLength: 32 };
    const hash = await argon2id({ ...options, outputType: "encoded" });
    results.push(hash, await argon2Verify({ password: "correct horse", hash }));
  }
  return results;
}

async function moduleLexer() {
  const { init, parse } = await import("es-module-lexer");
  await init;
  const results = [];
  const functions = javascript(10_000);
  for (let count = 1; count <= 8; count++) {
    const next = numbers(count);
    const imports = Array.from({ length: 50 }, (_, i) => `import { a${i} } from "m${next(999)}";`).join("\n");
    // Names must be exported once only.
    const blocks = Array.from({ length: count }, (_, i) => functions.replaceAll("_", `_${i}_`));
    const [imported, exported] = parse(`${imports}\n${blocks.join("\n")}`);
    results.push(imported.map(({ specifier, start, end }) => [specifier, start, end]));
    results.push(exported.slice(-50).map(({ name, start, localName }) => [name, start, localName ?? ""]));
  }
  return results;
}

async function esbuild() {
  // The build for browsers runs in this process; the one for Node starts another.
  globalThis.self = globalThis;
  const { context, initialize, transform } = require("esbuild-wasm/lib/browser.js");
  const wasmModule = await WebAssembly.compile(readFileSync(require.resolve("esbuild-wasm/esbuild.wasm")));
  await initialize({ wasmModule, worker: false });
  const results = [];
  for (let count = 100; count <= 1300; count += 400) {
    const { code, map } = await transform(javascript(count, count), { minify: true, sourcemap: true, target: "es2017" });
    results.push(code, map);
  }
  // A context holds what it has parsed, to be quick the next time.
  for (let i = 1; i <= 30; i++) {
    const held = await context({ stdin: { contents: javascript(300, i) }, write: false, minify: true, format: "esm" });
    const { outputFiles } = await held.rebuild();
    results.push(outputFiles.map(({ text }) => text));
  }
  return results;
}

async function gofmt() {
  const { format } = await import("@wasm-fmt/gofmt/node");
  const results = [];
  for (const count of [50, 240, 430, 620, 810, 1000, 6000]) {
    const next = numbers(count);
    const functions = Array.from(
      { length: count },
      (_, i) =>
        `func   f${i}( x int,y []int )(int,error){ if x>y[${next(9)}]{return x*${next(99)} ,nil}\n` +
        `for i:=range y{ y[i]+=${next(99)};m:=map[string]int{"a":${next(9)},"bcd":x};_=m }\nreturn 0,fmt.Errorf("no %d",x)}`,
    );
    results.push(format(`package main\nimport "fmt"\n${functions.join("\n")}`));
  }
  return results;
}

const PROGRAM = `
  class Node { next: Node | null = null; constructor(public value: i32, public text: string) {} }
  let head: Node | null = null;
  let state: u32 = 1;
  export function push(count: i32): i32 {
    for (let i = 0; i < count; i++) {
      state = state * 1664525 + 1013904223;
      const node = new Node(state >> 8, state.toString());
      node.next = head;
      head = node;
    }
    return head!.value;
  }
  export function digest(): i32 {
    let sum: i32 = 0;
    let node = head;
    while (node !== null) {
      sum = sum * 31 + node.value + node.text.charCodeAt(node.text.length - 1);
      node = node.next;
    }
    return sum;
  }
`;

async function assemblyscript() {
  const asc = await import("assemblyscript/asc");
  const results = [];
  // Its allocators double the memory, and where that fails they take what they need.
  for (const runtime of ["incremental", "stub"]) {
    let compiled;
    const { error, stderr } = await asc.main(["in.ts", "-o", "out.wasm", "-O", "--runtime", runtime, "--maximumMemory", "250"], {
      readFile: (name) => (name === "in.ts" ? PROGRAM : null),
      writeFile: (name, contents) => { if (name === "out.wasm") compiled = contents; },
      listFiles: () => [],
    });
    if (error) throw new Error(stderr.toString() || error.message);
    const abort = () => { throw new Error("abort was called"); };
    const { instance } = await WebAssembly.instantiate(compiled, { env: { abort } });
    results.push(compiled, runtime);
    for (let i = 0; i < 120; i++) results.push(instance.exports.push(1600));
    results.push(instance.exports.digest());
  }
  return results;
}

export const others = [
  { name: "hash-wasm", toolchain: "clang, C", work: "40 Argon2id hashes with 64 KiB to 16 MiB, verified", use: argon2 },
  { name: "es-module-lexer", toolchain: "clang, C", work: "8 modules of up to 80,000 functions scanned", use: moduleLexer },
  { name: "esbuild-wasm", toolchain: "Go", work: "4 modules minified, 30 bundles held open", use: esbuild },
  { name: "@wasm-fmt/gofmt", toolchain: "TinyGo", geometric: true, work: "7 sources of up to 6,000 functions formatted", use: gofmt },
  { name: "assemblyscript", toolchain: "AssemblyScript; its compiler Emscripten, C++", work: "one program compiled for 2 runtimes, 192,000 objects each, its memory limited to 250 pages", use: assemblyscript },
];
