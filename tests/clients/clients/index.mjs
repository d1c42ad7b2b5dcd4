// Every client, by toolchain: `{ name, toolchain, work, use }`. `use` drives the package's own API
// until its heap has grown, and returns what came out of it; it is given `pinnedMemory`, which makes
// a memory for a rewritten module that imports one. `refused` says why the rewriter may refuse it,
// `geometric` that the heap grows by a part of its own size, `outside` that JavaScript grows it.

import { emscripten } from "./emscripten.mjs";
import { others } from "./others.mjs";
import { rust } from "./rust.mjs";

export const clients = [...rust, ...emscripten.map((client) => ({ ...client, geometric: true, outside: true })), ...others];
