// Packages compiled from Rust, with wasm-bindgen and without: dlmalloc calls `memory.grow` itself.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

import { bytes, javascript, numbers, polynomials, prose } from "../inputs.mjs";

const require = createRequire(import.meta.url);

async function sourceMap() {
  const { SourceMapConsumer, SourceMapGenerator } = require("source-map");
  const next = numbers(7);
  const generator = new SourceMapGenerator({ file: "out.js" });
  for (let line = 1; line <= 4000; line++) {
    for (let column = 0; column < 3; column++) {
      const original = { line: 1 + next(5000), column: next(80) };
      generator.addMapping({ source: `in${next(9)}.js`, original, generated: { line, column: column * 20 } });
    }
  }
  const map = generator.toJSON();
  const answers = [];
  const alive = [];
  for (let i = 0; i < 120; i++) {
    const consumer = await new SourceMapConsumer(map);
    alive.push(consumer);
    for (let j = 0; j < 20; j++) {
      answers.push(consumer.originalPositionFor({ line: 1 + next(4000), column: next(60) }));
    }
    answers.push(consumer.generatedPositionFor({ source: "in3.js", line: 1 + next(5000), column: 0, bias: 2 }));
  }
  return answers;
}

async function brotli() {
  const { compress, decompress, CompressStream, BrotliStreamResultCode } = require("brotli-wasm");
  const results = [];
  const alive = [];
  for (let i = 0; i < 100; i++) {
    const stream = new CompressStream(5);
    alive.push(stream);
    const result = stream.compress(bytes(40_000, i + 1), 100_000);
    if (result.code !== BrotliStreamResultCode.NeedsMoreInput) throw new Error(`code ${result.code}`);
    results.push(result.buf);
  }
  for (const stream of alive) results.push(stream.compress(undefined, 100_000).buf);
  const text = new TextEncoder().encode(prose(200_000));
  const packed = compress(text, { quality: 5 });
  return [results, packed, decompress(packed)];
}

async function lightningcss() {
  const { default: init, transform } = await import("lightningcss-wasm");
  await init();
  const results = [];
  for (let size = 100; size <= 2000; size += 100) {
    const next = numbers(size);
    const code = Array.from(
      { length: size },
      (_, i) =>
        `.rule-${i} > a:not(.x${next(50)}) { & b { color: rgb(${next(256)} ${next(256)} 0 / 50%); } ` +
        `margin: ${next(9)}px ${next(9)}px; inset: 0; width: calc(${next(50)}px + 2 * ${next(50)}px) }`,
    ).join("\n");
    const result = transform({
      filename: "in.css",
      code: new TextEncoder().encode(code),
      minify: true,
      sourceMap: true,
      targets: { chrome: 80 << 16 },
    });
    results.push(Uint8Array.from(result.code), Uint8Array.from(result.map));
  }
  return results;
}

async function tiktoken() {
  const { Tiktoken } = require("tiktoken/lite");
  const { bpe_ranks, special_tokens, pat_str } = require("tiktoken/encoders/cl100k_base.json");
  const results = [];
  const alive = [];
  for (let i = 0; i < 4; i++) {
    const encoder = new Tiktoken(bpe_ranks, special_tokens, pat_str);
    alive.push(encoder);
    const text = prose(40_000, i + 1);
    const tokens = encoder.encode(text);
    results.push(tokens, new TextDecoder().decode(encoder.decode(tokens)) === text);
  }
  return results;
}

async function resvg() {
  const { initWasm, Resvg } = require("@resvg/resvg-wasm");
  await initWasm(readFileSync(require.resolve("@resvg/resvg-wasm/index_bg.wasm")));
  const results = [];
  const alive = [];
  for (let i = 0; i < 100; i++) {
    const next = numbers(i + 1);
    const shapes = Array.from(
      { length: 12 },
      () =>
        `<circle cx="${next(300)}" cy="${next(300)}" r="${next(90)}" fill="url(#g)" opacity="0.${next(9)}"/>` +
        `<path d="M${next(300)} ${next(300)} Q${next(300)} ${next(300)} ${next(300)} ${next(300)}" stroke="rgb(${next(256)},0,9)"/>`,
    ).join("");
    const svg =
      `<svg xmlns="http://www.w3.org/2000/svg" width="300" height="300"><defs><linearGradient id="g">` +
      `<stop stop-color="red"/><stop offset="1" stop-color="blue"/></linearGradient></defs>${shapes}</svg>`;
    const image = new Resvg(svg).render();
    alive.push(image);
    results.push(image.width, image.pixels);
  }
  results.push(alive[0].asPng(), alive.at(-1).asPng());
  return results;
}

async function rollup() {
  const { rollup: bundle } = require("@rollup/wasm-node");
  const { parseAst } = require("@rollup/wasm-node/parseAst");
  const results = [];
  // The tree is many small allocations; for the text its buffers only double.
  results.push(JSON.stringify(parseAst(polynomials(250))));
  for (let count = 20; count <= 1200; count += 60) {
    results.push(JSON.stringify(parseAst(javascript(count, count))));
  }
  const source = javascript(1000);
  const bundled = await bundle({
    input: "main",
    onwarn() {},
    plugins: [
      {
        name: "from-memory",
        resolveId: (id) => id,
        load: (id) => (id === "main" ? 'export * from "other";' : source),
      },
    ],
  });
  const { output } = await bundled.generate({ format: "cjs" });
  results.push(output[0].code);
  return results;
}

async function dprint() {
  const { createFromBuffer } = require("@dprint/formatter");
  const formatter = createFromBuffer(readFileSync(require("@dprint/typescript").getPath()));
  formatter.setConfig({}, { lineWidth: 90, "quoteStyle": "preferSingle" });
  const results = [];
  results.push(formatter.formatText({ filePath: "in.ts", fileText: polynomials(250) }));
  for (let count = 10; count <= 700; count += 30) {
    results.push(formatter.formatText({ filePath: "in.ts", fileText: javascript(count, count) }));
  }
  return results;
}

async function swc() {
  const { minifySync, parseSync, printSync } = require("@swc/wasm");
  const results = [];
  results.push(JSON.stringify(parseSync(polynomials(250), { syntax: "ecmascript" })));
  for (let count = 20; count <= 620; count += 60) {
    const code = javascript(count, count);
    results.push(minifySync(code, { compress: true, mangle: true, module: true }).code);
    results.push(printSync(parseSync(code, { syntax: "ecmascript" }), {}).code);
  }
  return results;
}

const BINDGEN = "Rust, wasm-bindgen";
export const rust = [
  { name: "source-map", toolchain: "Rust", work: "120 source maps of 12,000 mappings held open", use: sourceMap },
  { name: "brotli-wasm", toolchain: BINDGEN, work: "100 streams held open, 1 MB there and back", use: brotli },
  { name: "tiktoken", toolchain: BINDGEN, work: "4 encoders of cl100k_base, 160,000 words", use: tiktoken },
  { name: "@resvg/resvg-wasm", toolchain: BINDGEN, work: "100 images held", use: resvg },
  { name: "@rollup/wasm-node", toolchain: BINDGEN, work: "one module bundled, 21 parsed, one of them with 10,000 terms", use: rollup },
  { name: "@swc/wasm", toolchain: BINDGEN, work: "22 modules parsed, minified and printed, one of them with 10,000 terms", use: swc },
  { name: "lightningcss-wasm", toolchain: "Rust, N-API", work: "20 style sheets minified", use: lightningcss },
  { name: "@dprint/typescript", toolchain: "Rust", work: "25 files formatted, one of them with 10,000 terms", use: dprint },
];
