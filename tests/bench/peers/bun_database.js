// The endpoints of database.lua for Bun's server and its SQL driver, in processes that share the
// port: bun bun_database.js PORT PROCESSES. PGHOST … say where the database is.
import { SQL, serve } from "bun";
import { random, wanted, fortunesPage } from "./database_parts.js";

const [port, processes] = process.argv.slice(2).map(Number);
const CONNECTIONS = 4; // of a process, pipelined: more make it slower here

const cache = new Map();
let sql;

async function oneRow() {
  const [row] = await sql`select id, randomnumber from world where id = ${random()}`;
  return { id: row.id, randomNumber: row.randomnumber };
}

function someRows(count) {
  return Promise.all(Array.from({ length: count }, oneRow));
}

async function updatedRows(count) {
  const rows = await someRows(count);
  for (const row of rows) row.randomNumber = random();
  rows.sort((a, b) => a.id - b.id);
  const ids = `{${rows.map((row) => row.id).join()}}`;
  const numbers = `{${rows.map((row) => row.randomNumber).join()}}`;
  await sql`update world set randomnumber = new.number
    from unnest(${ids}::int[], ${numbers}::int[]) as new(id, number) where world.id = new.id`;
  return rows;
}

async function fortunes() {
  return fortunesPage([...(await sql`select id, message from fortune`)]);
}

function cachedRows(count) {
  return Array.from({ length: count }, () => cache.get(random()));
}

async function fillCache() {
  const rows = await sql`select id, randomnumber from world`;
  for (const row of rows) cache.set(row.id, { id: row.id, randomNumber: row.randomnumber });
}

const query = (request) => request.url.slice(request.url.indexOf("?") + 1);
const json = (value) => Response.json(value, { headers: { "Content-Type": "application/json" } });
const html = { headers: { "Content-Type": "text/html; charset=utf-8" } };

async function work() {
  const { PGHOST, PGPORT, PGUSER, PGDATABASE } = process.env;
  sql = new SQL({
    adapter: "postgres",
    path: `${PGHOST}/.s.PGSQL.${PGPORT}`,
    username: PGUSER,
    database: PGDATABASE,
    max: CONNECTIONS,
  });
  await fillCache();
  serve({
    port,
    hostname: "127.0.0.1",
    reusePort: true,
    routes: {
      "/db": async () => json(await oneRow()),
      "/queries": async (request) => json(await someRows(wanted(query(request)))),
      "/updates": async (request) => json(await updatedRows(wanted(query(request)))),
      "/fortunes": async () => new Response(await fortunes(), html),
      "/cached-queries": (request) => json(cachedRows(wanted(query(request)))),
    },
  });
}

function supervise() {
  const argv = [process.execPath, import.meta.path, String(port), "0"];
  const options = { stdio: ["ignore", "inherit", "inherit"] };
  const children = Array.from({ length: processes }, () => Bun.spawn(argv, options));
  process.on("SIGTERM", () => {
    for (const child of children) child.kill();
    process.exit(0);
  });
}

if (processes > 0) supervise();
else await work();
