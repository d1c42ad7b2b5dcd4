// Stands between a package and the engine: catches the bytes of every module that the package
// compiles, however it got them, hands the engine the rewritten ones, and watches the memories of
// the instances. It knows no package. It must be installed before the package is imported.

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { COUNT, countGrowths } from "./counting.mjs";

export const PAGE_BYTES = 65536;

/** The rewriter refused a module: neither a success nor a failure of the package. */
export class Refused extends Error {
  name = "Refused";
}

/**
 * Rewrites a module with the command that a user would type. A package may compile one module many
 * times, so results are kept in `folder`, which must not outlive the command's binary.
 */
function rewrite(bytes, { binary, growth, pages, folder }) {
  const hash = createHash("sha256").update(bytes).digest("hex");
  const kept = join(folder, `${hash}-${growth}-${pages}.wasm`);
  if (existsSync(kept)) return readFileSync(kept);
  const flags = ["--growth", growth, "--pages", String(pages)];
  const { status, stdout, stderr, error } = spawnSync(binary, ["rewrite", "-", "-o", "-", ...flags], {
    input: bytes,
    maxBuffer: 2 ** 30,
  });
  if (error) throw new Error(`cannot run ${binary}: ${error.message}`);
  const said = stderr.toString().trim();
  if (status !== 0) {
    throw new Refused(said.split("\n")[0].replace(/^error: (-|<?stdin>?): /, ""));
  }
  const unfinished = `${kept}.${process.pid}`;
  writeFileSync(unfinished, stdout);
  renameSync(unfinished, kept);
  return stdout;
}

function bytesOf(source) {
  return ArrayBuffer.isView(source)
    ? new Uint8Array(source.buffer, source.byteOffset, source.byteLength)
    : new Uint8Array(source);
}

/** A memory and what has been seen of its size. */
class Watched {
  constructor(memory) {
    this.memory = memory;
    this.before = this.after = this.pages();
    this.growths = 0;
  }

  pages() {
    return this.memory.buffer.byteLength / PAGE_BYTES;
  }

  look() {
    const pages = this.pages();
    if (pages !== this.after) {
      this.after = pages;
      this.growths += 1;
    }
  }
}

/**
 * Patches `WebAssembly`. `rewriting` is undefined for the original module, else the command's
 * `{ binary, growth, pages, folder, count }`; `count` makes the rewritten modules count their growths.
 * Returns what has been seen so far: `modules` compiled, `counters` of growths, `memories` watched, `refusals` by the rewriter, and memories that are `unpinned`
 * although their module was rewritten. Packages may catch what is thrown, so these are kept here.
 */
export function install(rewriting) {
  // Node's fetch has an HTTP parser in wasm, which is nobody's package: let Node compile it now, and
  // watch only what was compiled after this.
  void globalThis.Response;
  const { Module, Instance, Memory, Table, compile, instantiate } = WebAssembly;
  const engine = { Module, Instance, Memory, compile, instantiate };
  const seen = { modules: 0, memories: [], counters: [], refusals: [], unpinned: [] };

  const prepare = (source) => {
    seen.modules += 1;
    if (rewriting === undefined) return source;
    try {
      const rewritten = rewrite(bytesOf(source), rewriting);
      return rewriting.count ? countGrowths(rewritten) : rewritten;
    } catch (error) {
      if (error instanceof Refused) seen.refusals.push(error.message);
      throw error;
    }
  };

  const look = () => {
    for (const memory of seen.memories) memory.look();
  };

  // Wasm cannot be watched while it runs, so sizes are looked at wherever it is entered or left:
  // growths within one stretch of wasm count once, and the count is a lower bound.
  const originals = new WeakMap();
  const watchCalls = (functions) => {
    const watched = Object.create(null);
    for (const [name, item] of Object.entries(functions)) {
      if (typeof item !== "function") {
        watched[name] = item;
        continue;
      }
      watched[name] = (...args) => {
        look();
        try {
          return item(...args);
        } finally {
          look();
        }
      };
      originals.set(watched[name], item);
    }
    return watched;
  };

  const watchImports = (imports) => {
    if (rewriting !== undefined || imports === undefined) return imports;
    return Object.fromEntries(Object.entries(imports).map(([module, items]) => [module, watchCalls(items)]));
  };

  const caught = new WeakSet();
  const catchModule = (module) => {
    caught.add(module);
    return module;
  };

  const watchInstance = (module, instance, imports) => {
    if (!caught.has(module)) return instance;
    const importedFrom = Object.values(imports ?? {}).flatMap((items) => Object.values(items));
    for (const item of [...Object.values(instance.exports), ...importedFrom]) {
      if (item instanceof engine.Memory && !seen.memories.some(({ memory }) => memory === item)) {
        const watched = new Watched(item);
        seen.memories.push(watched);
        if (rewriting !== undefined && watched.before !== rewriting.pages) {
          seen.unpinned.push(watched.before);
        }
      }
    }
    if (COUNT in instance.exports) seen.counters.push(instance.exports[COUNT]);
    // Only the original is watched from call to call: a pinned memory has nothing to watch, and the
    // rewritten module should meet the package exactly as it would without this file.
    if (rewriting === undefined) {
      const exports = Object.freeze(watchCalls(instance.exports));
      Object.defineProperty(instance, "exports", { value: exports });
    }
    return instance;
  };

  WebAssembly.Module = new Proxy(engine.Module, {
    construct: (target, [source], newTarget) =>
      catchModule(Reflect.construct(target, [prepare(source)], newTarget)),
  });
  WebAssembly.Instance = new Proxy(engine.Instance, {
    construct: (target, [module, imports], newTarget) =>
      watchInstance(module, Reflect.construct(target, [module, watchImports(imports)], newTarget), imports),
  });
  WebAssembly.compile = async (source) => catchModule(await engine.compile(prepare(source)));
  WebAssembly.instantiate = async (source, imports) => {
    const given = source instanceof engine.Module;
    const module = given ? source : await WebAssembly.compile(source);
    const instance = await engine.instantiate(module, watchImports(imports));
    watchInstance(module, instance, imports);
    return given ? instance : { module, instance };
  };
  // A table takes functions of wasm only.
  const setElement = Table.prototype.set;
  Table.prototype.set = function (index, ...values) {
    return setElement.call(this, index, ...values.map((value) => originals.get(value) ?? value));
  };
  const body = async (response) => new Uint8Array(await (await response).arrayBuffer());
  WebAssembly.compileStreaming = async (response) => WebAssembly.compile(await body(response));
  WebAssembly.instantiateStreaming = async (response, imports) =>
    WebAssembly.instantiate(await body(response), imports);
  return seen;
}
