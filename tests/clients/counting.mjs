// Makes a rewritten module count the growths of its memory, so that growths within one call are
// counted too. It knows the body of the function that the rewriter adds, and nothing else of it.

/** The export that holds the count; its name is one that no package has. */
export const COUNT = "wasm-prealloc: growths";

const SECTION = { global: 6, export: 7, code: 10 };
// local 0 is what is asked for, local 1 the old size:
//   i32.sub  i32.gt_u  if (result i32)  i32.const -1  else  local.get 1  local.get 0  i32.add  global.set
const HEAD = Buffer.from("6b4b047f417f05200120006a24", "hex");
// local.get 1  end  end
const TAIL = Buffer.from("20010b0b", "hex");

function leb128(number) {
  const bytes = [];
  for (; number > 127; number >>>= 7) bytes.push((number & 127) | 128);
  return Buffer.from([...bytes, number]);
}

function readLeb128(bytes, at) {
  for (let number = 0, shift = 0; ; shift += 7) {
    const byte = bytes[at++];
    number |= (byte & 127) << shift;
    if (byte < 128) return [number >>> 0, at];
  }
}

/** A vector with one item more. */
function append(content, item) {
  const [count, items] = readLeb128(content, 0);
  return Buffer.concat([leb128(count + 1), content.subarray(items), item]);
}

/** The code section with the counter in the function that grows; also the counter's index. */
function countInCode(content) {
  const found = content.indexOf(HEAD);
  if (found < 0) return undefined;
  const [size, after] = readLeb128(content, found + HEAD.length);
  if (content.indexOf(TAIL, after) !== after || content.indexOf(HEAD, after) >= 0) {
    throw new Error("the function that grows the memory is not as it was; see counting.mjs");
  }
  // The size is the last global, because what is added stands at the end.
  const counter = leb128(size + 1);
  // counter = counter + (asked for != 0)
  const count = Buffer.concat([Buffer.from([0x23]), counter, Buffer.from("20004100476a24", "hex"), counter]);
  let [bodies, at] = readLeb128(content, 0);
  for (; bodies > 0; bodies--) {
    const [length, body] = readLeb128(content, at);
    if (found < body + length) {
      const counting = Buffer.concat([content.subarray(body, after), count, content.subarray(after, body + length)]);
      const patched = [content.subarray(0, at), leb128(counting.length), counting, content.subarray(body + length)];
      return { counter, content: Buffer.concat(patched) };
    }
    at = body + length;
  }
  throw new Error("the code section ends too early");
}

/** The module with a counter; as it is where its growth is not emulated. */
export function countGrowths(source) {
  const bytes = Buffer.from(source.buffer, source.byteOffset, source.byteLength);
  const sections = [];
  for (let at = 8; at < bytes.length; ) {
    const [length, from] = readLeb128(bytes, at + 1);
    sections.push({ id: bytes[at], content: bytes.subarray(from, from + length) });
    at = from + length;
  }
  const of = (id) => sections.find((section) => section.id === id);
  const code = of(SECTION.code);
  const counting = code && countInCode(code.content);
  if (counting === undefined) return source;
  code.content = counting.content;
  const name = Buffer.from(COUNT);
  const zero = Buffer.from("7f0141000b", "hex");
  of(SECTION.global).content = append(of(SECTION.global).content, zero);
  const item = Buffer.concat([leb128(name.length), name, Buffer.from([3]), counting.counter]);
  of(SECTION.export).content = append(of(SECTION.export).content, item);
  const written = sections.flatMap(({ id, content }) => [Buffer.from([id]), leb128(content.length), content]);
  return Buffer.concat([bytes.subarray(0, 8), ...written]);
}
