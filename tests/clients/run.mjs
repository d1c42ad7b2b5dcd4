// Runs one client in one mode in this process, and prints one line of JSON: what came out, as a
// digest, and what its memory did. It compares nothing; all.mjs does.
//
//   node run.mjs CLIENT original|keep|auto|counted
//
// `counted` is `auto` in a module that counts its growths.
// The rewriter's binary is named by WASM_PREALLOC; rewritten modules are kept in WASM_PREALLOC_KEPT
// (default: a temporary folder).
// Exit status: 0 the client has a result, 1 it failed or was refused (the line says why), 2 bad usage.

import { createHash } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { clients } from "./clients/index.mjs";
import { install } from "./interception.mjs";

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;
const PAGES = 65536;

const [name, mode] = process.argv.slice(2);
const client = clients.find((candidate) => candidate.name === name);
const binary = process.env.WASM_PREALLOC;
if (client === undefined || !["original", "keep", "auto", "counted"].includes(mode)) {
  process.stderr.write("usage: node run.mjs CLIENT original|keep|auto|counted\n");
  process.exit(EXIT_USAGE);
}
if (mode !== "original" && !binary) {
  process.stderr.write("error: WASM_PREALLOC does not name the wasm-prealloc binary\n");
  process.exit(EXIT_USAGE);
}

/** Feeds a result to a hash, with the type and length of each part, so that no two results agree by accident. */
function feed(hash, value) {
  if (ArrayBuffer.isView(value)) {
    hash.update(`bytes ${value.byteLength}:`).update(new Uint8Array(value.buffer, value.byteOffset, value.byteLength));
  } else if (Array.isArray(value)) {
    hash.update(`list ${value.length}:`);
    for (const item of value) feed(hash, item);
  } else if (typeof value === "object" && value !== null) {
    hash.update(`object ${Object.keys(value).length}:`);
    for (const [key, item] of Object.entries(value)) feed(hash.update(`${JSON.stringify(key)}=`), item);
  } else {
    hash.update(`${typeof value} ${String(value).length}:`).update(String(value));
  }
  return hash;
}

/** The beginning of a result, for people who wonder how it differs. */
function glimpse(value) {
  const shorten = (_, item) => (ArrayBuffer.isView(item) ? `${item.byteLength} bytes` : typeof item === "bigint" ? `${item}` : item);
  return (JSON.stringify(value, shorten) ?? String(value)).slice(0, 120);
}

const started = performance.now();
let folder = process.env.WASM_PREALLOC_KEPT;
if (folder === undefined) {
  folder = mkdtempSync(join(tmpdir(), "wasm-prealloc-clients-"));
  process.on("exit", () => rmSync(folder, { recursive: true }));
}
const rewriting = mode === "original" ? undefined : { binary, growth: mode === "keep" ? "keep" : "auto", pages: PAGES, folder, count: mode === "counted" };
const seen = install(rewriting);

/** Prints the one line and ends; the exit is not left to timers and workers of the package. */
function finish(outcome) {
  for (const memory of seen.memories) memory.look();
  const grown = ({ before, after }) => after - before;
  const largest = seen.memories.reduce((a, b) => (a && grown(a) >= grown(b) ? a : b), undefined);
  // Of each memory that grew; a package can have many instances.
  const growths = seen.memories.map(({ growths }) => growths).concat(seen.counters.map(({ value }) => value));
  const memory = largest && { before: largest.before, after: largest.after, growths: growths.filter((count) => count > 0) };
  // What a package makes of a refusal is not interesting, only that there was one.
  const refused = seen.refusals[0];
  if (seen.unpinned.length > 0) outcome = { error: `a rewritten memory has ${seen.unpinned[0]} pages, not ${PAGES}` };
  const line = {
    client: name,
    mode,
    ...(refused === undefined ? outcome : { refused }),
    modules: seen.modules,
    memory,
    milliseconds: Math.round(performance.now() - started),
  };
  process.exitCode = "digest" in line ? 0 : EXIT_FAILED;
  process.stdout.write(`${JSON.stringify(line)}\n`, () => process.exit());
}

function fail(error) {
  const text = error instanceof Error ? `${error.name}: ${error.message}` : `threw ${String(error)}`;
  finish({ error: text.trim().split("\n")[0].slice(0, 200) || "an error without a message" });
}

process.on("uncaughtException", fail);
process.on("unhandledRejection", fail);
try {
  const pinnedMemory = () => new WebAssembly.Memory({ initial: PAGES, maximum: PAGES });
  const result = await client.use(rewriting === undefined ? {} : { pinnedMemory });
  if (seen.memories.length === 0) throw new Error("no memory was seen: the interception does not reach this package");
  finish({ digest: feed(createHash("sha256"), result).digest("hex"), glimpse: glimpse(result) });
} catch (error) {
  fail(error);
}
