// Runs every client in every mode, each in a process of its own and one after the other, and
// compares what came out: the rewritten module must give the result of the original one.
//
//   node all.mjs [--markdown] [CLIENT...]
//
// Prints a table; `--markdown` writes it into README.md beside this file as well. The rewriter's
// binary is named by WASM_PREALLOC.
// Exit status: 0 every client is as it must be, 1 one is not (stderr says which), 2 bad usage.

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { clients } from "./clients/index.mjs";

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;
// What hangs under `keep` would hang for ever; the others may be on a slow machine.
const TIMEOUT_MS = { original: 120_000, keep: 30_000, auto: 120_000, counted: 120_000 };
// A heap that grows by what is asked for can grow as often as one likes; one that grows by a part of
// itself cannot, and its client says so (`geometric`).
const GROWTHS = 100;

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

function runOne(name, mode, kept) {
  const { stdout, stderr, error, status, signal } = spawnSync(process.execPath, [here("run.mjs"), name, mode], {
    encoding: "utf8",
    env: { ...process.env, WASM_PREALLOC_KEPT: kept },
    killSignal: "SIGKILL",
    maxBuffer: 2 ** 28,
    timeout: TIMEOUT_MS[mode],
  });
  if (error?.code === "ETIMEDOUT") return { hangs: TIMEOUT_MS[mode] / 1000 };
  const last = stdout.trimEnd().split("\n").at(-1);
  try {
    return JSON.parse(last);
  } catch {
    const said = stderr.trim().split("\n").find((line) => /error|abort|fatal/i.test(line)) ?? "";
    return { error: `ended without a result (${signal ?? `status ${status}`}) ${said}`.trim() };
  }
}

/** What a mode did, next to the original. */
function verdict(original, outcome) {
  if (outcome.refused !== undefined) return `refused: ${outcome.refused.split(" (at offset")[0]}`;
  if (outcome.hangs !== undefined) return `hangs (no result in ${outcome.hangs} s)`;
  if (outcome.error !== undefined) return `fails: ${outcome.error}`;
  if (outcome.digest !== original.digest) return "**wrong result**, without an error";
  return "same result";
}

/** How often the memories of a client grew, by memory, as far as that is known. */
function growths({ original, counted }) {
  return (counted ?? original).memory?.growths ?? [];
}

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

/** Why a client is not as it must be; empty where it is. */
function complaints(row) {
  const { client, original, auto, verdicts } = row;
  if (original.digest === undefined) return [`the original fails: ${JSON.stringify(original)}`];
  const found = [];
  const { before, after } = original.memory;
  // A heap that did not grow shows nothing about growth.
  if (after < 2 * before || growths(row).length === 0) found.push(`its memory went from ${before} to ${after} pages only`);
  if (!client.geometric && sum(growths(row)) < GROWTHS) found.push(`its memory grew ${sum(growths(row))} times, not ${GROWTHS}`);
  if (verdicts.counted !== undefined && verdicts.counted !== "same result") found.push(`counted: ${verdicts.counted}`);
  if (auto.refused !== undefined && client.refused === undefined) found.push(`refused: ${auto.refused}`);
  else if (auto.refused === undefined && verdicts.auto !== "same result") {
    found.push(`auto: ${verdicts.auto}: ${original.glimpse} became ${auto.glimpse}`);
  }
  return found;
}

const version = (name) => JSON.parse(readFileSync(here(`node_modules/${name}/package.json`), "utf8")).version;
function growthsCell(row) {
  const counts = growths(row);
  return counts.length > 1 ? `${sum(counts)} (${counts.length} memories)` : counts.join();
}

const cell = (text) => String(text).replaceAll("|", "\\|");

function table(rows) {
  const head = ["package", "toolchain", "what it did", "pages before", "after", "growths", "`--growth keep`", "`--growth auto`"];
  const lines = rows.map((row) => {
    const { client, original, verdicts } = row;
    return [
      `${client.name} ${version(client.name)}`,
      client.toolchain,
      client.work,
      original.memory?.before ?? "",
      original.memory?.after ?? "",
      growthsCell(row),
      verdicts.keep,
      verdicts.auto,
    ];
  });
  return [head, head.map(() => "---"), ...lines].map((line) => `| ${line.map(cell).join(" | ")} |`).join("\n");
}

function summary(rows) {
  const ran = rows.filter(({ auto }) => auto.refused === undefined);
  const broken = ran.filter(({ verdicts }) => verdicts.keep !== "same result");
  const same = ran.filter(({ verdicts }) => verdicts.auto === "same result");
  const refused = rows.length - ran.length;
  const often = rows.filter((row) => sum(growths(row)) >= GROWTHS);
  return (
    `Of ${ran.length} packages that the rewriter takes, ${broken.length} break with \`--growth keep\`, and ` +
    `${same.length} give the original's result with \`--growth auto\`. Refused: ${refused}. ` +
    `${often.length} grew their memory ${GROWTHS} times or more. ` +
    `Node ${process.versions.node} on ${process.platform}-${process.arch}.`
  );
}

/** Replaces what stands between the two marks in README.md. */
function writeReadme(text) {
  const path = here("README.md");
  const [begin, end] = ["<!-- begin: node all.mjs --markdown -->", "<!-- end -->"];
  const readme = readFileSync(path, "utf8");
  const [from, to] = [readme.indexOf(begin), readme.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`${path} has no ${begin} … ${end}`);
  writeFileSync(path, `${readme.slice(0, from)}${begin}\n${text}\n${readme.slice(to)}`);
}

let options;
try {
  options = parseArgs({ allowPositionals: true, options: { markdown: { type: "boolean" } } });
} catch (error) {
  process.stderr.write(`error: ${error.message}\nusage: node all.mjs [--markdown] [CLIENT...]\n`);
  process.exit(EXIT_USAGE);
}
const named = options.positionals;
const unknown = named.filter((name) => !clients.some((client) => client.name === name));
if (!process.env.WASM_PREALLOC || unknown.length > 0) {
  process.stderr.write(
    unknown.length > 0 ? `error: no such client: ${unknown.join(", ")}\n` : "error: WASM_PREALLOC does not name the wasm-prealloc binary\n",
  );
  process.exit(EXIT_USAGE);
}

const kept = mkdtempSync(join(tmpdir(), "wasm-prealloc-clients-"));
const rows = [];
try {
  for (const client of clients.filter(({ name }) => named.length === 0 || named.includes(name))) {
    const row = { client, verdicts: {} };
    // What is grown from outside is seen wherever it grows, and needs no counting.
    const modes = client.outside ? ["original", "keep", "auto"] : ["original", "keep", "auto", "counted"];
    for (const mode of modes) {
      row[mode] = runOne(client.name, mode, kept);
      row.verdicts[mode] = verdict(row.original, row[mode]);
    }
    rows.push(row);
  }
} finally {
  rmSync(kept, { recursive: true });
}
const text = `${table(rows)}\n\n${summary(rows)}`;
process.stdout.write(`${text}\n`);
if (options.values.markdown) writeReadme(text);
let failed = false;
for (const row of rows) {
  for (const complaint of complaints(row)) {
    failed = true;
    process.stderr.write(`error: ${row.client.name}: ${complaint}\n`);
  }
}
process.exitCode = failed ? EXIT_FAILED : 0;
