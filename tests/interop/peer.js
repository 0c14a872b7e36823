// A peer that does what lines on its input say and answers each with one line.
//
// Arguments: redlock4 or redlock5, and the ports of the servers.

const readline = require("node:readline");
const Redis = require("ioredis");

const [kind, ...ports] = process.argv.slice(2);
const nodes = ports.map((port) => new Redis({ host: "127.0.0.1", port: Number(port) }));
const settings = { retryCount: 0, retryDelay: 10, retryJitter: 0 };
const module_ = require(kind);
const redlock = new (module_.default ?? module_)(nodes, settings);
// It says there what each single try met, too.
redlock.on(kind === "redlock4" ? "clientError" : "error", () => {});

const lock = (name, ttl) =>
  (kind === "redlock4" ? redlock.lock(name, ttl) : redlock.acquire([name], ttl)).catch((error) => {
    // Whatever else goes wrong must not pass for "somebody has it".
    if (!["LockError", "ExecutionError"].includes(error.name)) throw error;
    return null;
  });
const unlock = (held) => (kind === "redlock4" ? held.unlock() : held.release()).catch(() => {});
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// Locks again and again; how often, and how often somebody else was inside.
async function contend(name, seconds, port) {
  const store = new Redis({ host: "127.0.0.1", port: Number(port) });
  const until = performance.now() + seconds * 1000;
  let [served, met] = [0, 0];
  while (performance.now() < until) {
    const mine = await lock(name, 10000);
    if (mine) {
      met += (await store.incr("inside")) !== 1;
      await sleep(2);
      await store.decr("inside");
      await unlock(mine);
      served += 1;
    }
    await sleep(2);
  }
  store.disconnect();
  return `${served} ${met}`;
}

async function main() {
  let held = null;
  console.log("ready");
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [order, ...words] = line.split(" ");
    if (order === "lock") {
      held = await lock(words[0], Number(words[1]));
      console.log(held ? "yes" : "no");
    } else if (order === "unlock") {
      await unlock(held);
      console.log("done");
    } else {
      console.log(await contend(...words));
    }
  }
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
