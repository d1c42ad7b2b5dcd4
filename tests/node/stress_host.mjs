// A second host for the indexer's guest ABI, in Node: what a guest stores does not depend on the
// engine. Runs one module on one block, and prints what was flushed as one line of JSON. It commits
// no memory and judges no result; tests do.
//
//   node stress_host.mjs MODULE.wasm --height H --block HEX
//
// Exit status: 0 the guest ran, 1 it was not instantiated or trapped, 2 bad usage or unreadable file.

import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

const EXIT_GUEST = 1;
const EXIT_USAGE = 2;
const PAGE_BYTES = 65536;

/** Prints why there is no result, and ends with the code that says whose fault it is. */
function fail(code, message) {
  process.stderr.write(`error: ${message}\n`);
  process.exit(code);
}

function readCommandLine() {
  const usage = "usage: node stress_host.mjs MODULE.wasm --height H --block HEX";
  let parsed;
  try {
    parsed = parseArgs({
      allowPositionals: true,
      options: { height: { type: "string" }, block: { type: "string" } },
    });
  } catch (error) {
    fail(EXIT_USAGE, `${error.message}\n${usage}`);
  }
  const { positionals, values } = parsed;
  if (positionals.length !== 1 || values.height === undefined || values.block === undefined) {
    fail(EXIT_USAGE, usage);
  }
  const height = Number(values.height);
  if (!/^\d+$/.test(values.height) || height > 0xffffffff) {
    fail(EXIT_USAGE, `--height ${values.height}: not a number from 0 to 4294967295`);
  }
  if (!/^([0-9a-fA-F]{2})*$/.test(values.block)) {
    fail(EXIT_USAGE, `--block ${values.block}: not an even number of hexadecimal digits`);
  }
  return { path: positionals[0], height, block: Buffer.from(values.block, "hex") };
}

/**
 * The buffers of a guest, by pointer. Views are made anew for each access, because growth detaches
 * them, and as small as the access, because Node 20 misbehaves on views of 2 GiB and more. Pointers
 * above 2 GiB arrive as negative numbers.
 */
class Buffers {
  constructor(memory) {
    this.memory = memory;
  }

  length(pointer) {
    return new DataView(this.memory.buffer, (pointer >>> 0) - 4, 4).getUint32(0, true);
  }

  read(pointer) {
    return new Uint8Array(this.memory.buffer, pointer >>> 0, this.length(pointer)).slice();
  }

  write(pointer, bytes) {
    new Uint8Array(this.memory.buffer, pointer >>> 0, bytes.length).set(bytes);
  }
}

/** The elements of the protobuf message `repeated bytes list = 1`. */
function decodeList(message) {
  const LIST_TAG = (1 << 3) | 2;
  const items = [];
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      if (at >= message.length || scale > 128 ** 4) {
        throw new Error(`the flushed message has a broken length at byte ${at}`);
      }
      const byte = message[at++];
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
    }
  };
  while (at < message.length) {
    const tag = varint();
    if (tag !== LIST_TAG) throw new Error(`the flushed message has tag ${tag}, not ${LIST_TAG}`);
    const length = varint();
    if (length > message.length - at) {
      throw new Error(`the flushed message ends inside the element at byte ${at}`);
    }
    items.push(message.subarray(at, at + length));
    at += length;
  }
  if (items.length % 2 !== 0) throw new Error("the flushed message has a key without a value");
  return items;
}

/** Runs the guest once, and returns what it left behind. */
function run(module, height, block) {
  const input = Buffer.alloc(4 + block.length);
  input.writeUInt32LE(height, 0);
  block.copy(input, 4);

  const text = new TextDecoder();
  const stored = new Map();
  const flushed = [];
  const log = [];
  let buffers;
  const find = (key) => stored.get(text.decode(buffers.read(key))) ?? new Uint8Array();
  const env = {
    __host_len: () => input.length,
    __load_input: (pointer) => buffers.write(pointer, input),
    __get_len: (key) => find(key).length,
    __get: (key, value) => buffers.write(value, find(key)),
    __flush: (pointer) => {
      const items = decodeList(buffers.read(pointer));
      for (let i = 0; i < items.length; i += 2) {
        const key = text.decode(items[i]);
        stored.set(key, items[i + 1]);
        flushed.push({ key, value: text.decode(items[i + 1]) });
      }
    },
    __log: (pointer) => log.push(text.decode(buffers.read(pointer))),
  };
  const { exports } = new WebAssembly.Instance(module, { env });
  const memory = Object.values(exports).find((item) => item instanceof WebAssembly.Memory);
  if (memory === undefined) throw new Error("the module exports no memory");
  if (typeof exports._start !== "function") throw new Error("the module exports no _start");
  const pages = () => memory.buffer.byteLength / PAGE_BYTES;
  buffers = new Buffers(memory);

  const pagesBefore = pages();
  exports._start();
  return { flushed, pages_before: pagesBefore, pages_after: pages(), log };
}

const { path, height, block } = readCommandLine();
let bytes;
try {
  bytes = readFileSync(path);
} catch (error) {
  fail(EXIT_USAGE, `cannot read ${path}: ${error.message}`);
}
try {
  const result = run(new WebAssembly.Module(bytes), height, block);
  process.stdout.write(`${JSON.stringify(result)}\n`);
} catch (error) {
  fail(EXIT_GUEST, `${path} at height ${height}: ${error.name}: ${error.message}`);
}
