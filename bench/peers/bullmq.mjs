// BullMQ: jobs added by addBulk, 500 at a time; a worker process whose concurrency is high, as its
// documentation advises where handlers do little; what is done is removed. Concurrencies of 50 to
// 2,000 and 100 to 2,000 jobs at a time were tried: within a tenth of it or slower.
//
//     node bullmq.mjs publish    told what on standard input, as bench/peers/sending.py says
//     node bullmq.mjs work       until it is stopped

import { createRequire } from "node:module";
import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { createInterface } from "node:readline";

// Installed elsewhere than this file: see installing.py.
const { Queue, Worker } = createRequire(process.env.BENCH_MODULES + "/")("bullmq");

const AT_ONCE = 200;
const BULK = 500;
const { hostname: host, port } = new URL(process.env.BENCH_REDIS);
const connection = { host, port: Number(port), maxRetriesPerRequest: null };

async function publish() {
  const lines = readFileSync(process.env.BENCH_EVENTS, "utf8").trimEnd().split("\n");
  const jobs = lines.map((line) => ({ name: "handle", data: JSON.parse(line) }));
  const queue = new Queue("bench", {
    connection,
    defaultJobOptions: { removeOnComplete: true, removeOnFail: true },
  });
  await queue.waitUntilReady();
  console.log("ready");
  for await (const line of createInterface({ input: process.stdin })) {
    const [first, stop] = line.split(" ").map(Number);
    for (let at = first; at < stop; at += BULK) {
      await queue.addBulk(jobs.slice(at, Math.min(at + BULK, stop)));
    }
    console.log("published");
  }
  await queue.close();
}

async function work() {
  // As counts.py: eight bytes. Written when there are new ones, as no memory is shared here.
  const file = openSync(`${process.env.BENCH_COUNTS}/${process.pid}`, "w");
  const bytes = Buffer.alloc(8);
  let count = 0;
  let written = -1;
  const write = () => {
    if (written !== count) {
      written = count;
      bytes.writeBigUInt64LE(BigInt(count));
      writeSync(file, bytes, 0, 8, 0);
    }
  };
  write();
  const timer = setInterval(write, 2);
  const worker = new Worker("bench", async () => { count += 1; }, { connection, concurrency: AT_ONCE });
  worker.on("error", (error) => console.error(error));
  process.once("SIGTERM", async () => {
    // Without its server it would try to reach it for ever.
    setTimeout(() => process.exit(1), 5000).unref();
    await worker.close();
    clearInterval(timer);
    write();
    closeSync(file);
  });
}

await (process.argv[2] === "work" ? work() : publish());
