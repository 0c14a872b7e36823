// A worker for npm redlock: takes the orders described in src/worker.rs.
//
// worker.mjs FOLDER POLL_MS URL...

import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { join } from "node:path";

const TTL_MS = 10_000;
const [folder, poll, ...urls] = process.argv.slice(2);
const require = createRequire(join(folder, "package.json"));
const Redis = require("ioredis").default;
const Redlock = require("redlock").default;

const clock = () => BigInt(Math.round((performance.timeOrigin + performance.now()) * 1e6));
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const until = (end) => sleep(Math.max(0, Number(end - clock()) / 1e6));

const nodes = urls.map((url) => new Redis(url, { commandTimeout: 500, maxRetriesPerRequest: 1 }));
nodes.forEach((node) => node.on("error", () => {}));
// Not its own retries: between them it keeps the keys of a lost vote, which then refuse the next try.
const redlock = new Redlock(nodes, { retryCount: 0 });

async function acquire(name, end) {
  for (;;) {
    try {
      return await redlock.acquire([name], TTL_MS);
    } catch (error) {
      if (error.name !== "ExecutionError" || clock() >= end) throw error;
      await sleep(Number(poll) * (0.5 + Math.random()));
    }
  }
}

async function turns(task, order, told) {
  const mine = { cycles: [], errors: [], asked: null };
  told[task] = mine;
  for (let turn = 0; turn < order.cycles; turn += 1) {
    const asked = clock();
    if (asked >= order.end) return;
    mine.asked = asked;
    try {
      const name = order.fresh ? `${order.resource}:${turn}` : order.resource;
      const lock = await acquire(name, order.end);
      const served = clock();
      // A timer may be early.
      if (order.hold > 0) await sleep(order.hold);
      while (clock() < served + BigInt(order.hold * 1e6)) await new Promise(setImmediate);
      await lock.release();
      mine.asked = null;
      mine.cycles.push(`c ${task} ${asked} ${served} ${clock()}`);
    } catch (error) {
      // It waited to the end.
      if (clock() >= order.end) return;
      mine.asked = null;
      mine.errors.push(`e ${task} ${String(error.message).replaceAll("\n", " ")}`);
      await sleep(1);
    }
  }
}

async function run(words) {
  const order = {
    resource: words[1],
    fresh: words[2] === "1",
    hold: Number(words[4]) / 1000,
    end: BigInt(words[6]),
    cycles: Number(words[7]),
  };
  await until(BigInt(words[5]));
  const told = [];
  const tasks = Array.from({ length: Number(words[3]) }, (_, task) => turns(task, order, told));
  await Promise.race([Promise.all(tasks), until(order.end)]);
  const lines = [];
  told.forEach(({ cycles, errors, asked }, task) => {
    lines.push(...cycles, ...errors);
    if (asked !== null) lines.push(`p ${task} ${asked}`);
  });
  process.stdout.write([...lines, "done", ""].join("\n"));
}

await Promise.all(nodes.map((node) => node.ping()));
process.stdout.write("ready\n");
for await (const line of createInterface({ input: process.stdin })) await run(line.split(" "));
process.exit(0);
