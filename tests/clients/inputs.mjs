// Inputs for the clients: as large as asked for, with some variety in them, and the same in every
// run and on every machine.

/** A sequence of whole numbers below what is asked for, from a fixed seed (xorshift32). */
export function numbers(seed = 1) {
  let state = seed >>> 0 || 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state % below;
  };
}

const WORDS = (
  "memory page limit minimum maximum growth table segment import export global local block loop " +
  "branch call return value number vector lane fence wait notify copy fill store load shift rotate"
).split(" ");

/** `count` words in sentences. */
export function prose(count, seed = 1) {
  const next = numbers(seed);
  const sentences = [];
  for (let left = count; left > 0; ) {
    const length = Math.min(left, 5 + next(10));
    left -= length;
    sentences.push(`${Array.from({ length }, () => WORDS[next(WORDS.length)]).join(" ")} ${next(1000)}.`);
  }
  return sentences.join(" ");
}

/** Bytes that compress, but not to nothing. */
export function bytes(length, seed = 1) {
  const next = numbers(seed);
  return Uint8Array.from({ length }, () => next(16) * next(16));
}

/** A JavaScript module of `count` exported functions, badly formatted. */
export function javascript(count, seed = 1) {
  const next = numbers(seed);
  const lines = [];
  for (let i = 0; i < count; i++) {
    const [a, b] = [WORDS[next(WORDS.length)], WORDS[next(WORDS.length)]];
    lines.push(
      `export   function ${a}_${i}( x,y ) {let ${b}_x = [x,y,${next(1000)}].map(v=>v*${next(9)});` +
        `if( ${b}_x[0]>y ){ return \`${b} \${ ${b}_x.join( ",") }\` } return {${a}:x, "${b}_": y??${next(99)}} }`,
    );
  }
  return lines.join("\n");
}

/** A JavaScript module of `count` polynomials: little text for many nodes of a syntax tree. */
export function polynomials(count, seed = 1) {
  const next = numbers(seed);
  const term = () => `${next(9)}*x+y*(${next(99)}-z)`;
  const lines = Array.from({ length: count }, (_, i) => `export const p${i}=(x,y,z)=>${Array.from({ length: 40 }, term).join("-")};`);
  return lines.join("\n");
}
