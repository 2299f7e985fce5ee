// Jobs that do nothing through piscina, with an argument and a result: the median round trip of one
// at a time, and with 64 in flight the rate and the CPU time of the whole process per job.
//
//     node piscina.mjs [seconds]     prints one line of JSON
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const require = createRequire(process.env.PISCINA_FROM + "/");
const Piscina = require("piscina");
const seconds = Number(process.argv[2] ?? 1);
const pool = new Piscina({
  filename: fileURLToPath(new URL("./piscina_job.mjs", import.meta.url)),
  minThreads: 1,
  maxThreads: 1,
  concurrentTasksPerWorker: 64,
});

const now = () => Number(process.hrtime.bigint()) / 1e3; // µs

async function sequential() {
  const times = [];
  const until = now() + seconds * 1e6;
  while (now() < until) {
    const began = now();
    await pool.run(1);
    times.push(now() - began);
  }
  times.sort((a, b) => a - b);
  return times[Math.floor(times.length / 2)];
}

async function together() {
  let count = 0;
  const began = now();
  const until = began + seconds * 1e6;
  const cpu = process.cpuUsage();
  const sender = async () => {
    while (now() < until) {
      await pool.run(1);
      count++;
    }
  };
  await Promise.all(Array.from({ length: 64 }, sender));
  const used = process.cpuUsage(cpu);
  return [(count / (now() - began)) * 1e6, (used.user + used.system) / count];
}

await pool.run(1);
await sequential(); // warm
const median_us = await sequential();
const [jobs_per_second, cpu_us] = await together();
console.log(JSON.stringify({ median_us, jobs_per_second, cpu_us }));
await pool.destroy();
