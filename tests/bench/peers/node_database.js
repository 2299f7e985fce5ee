// The endpoints of database.lua for node's http module in a cluster and the driver pg, with named
// prepared statements, on a pool whose connections serve one request at a time, or on connections
// that all requests share, with pg's option `pipeline`. PGHOST … say where the database is.
//
//     node node_database.js PORT PROCESSES pooled|pipelined
"use strict";
const cluster = require("cluster");
const http = require("http");
const { Client, Pool } = require("pg");
const { worldSize, random, wanted, fortunesPage } = require("./database_parts.js");

const [port, processes] = process.argv.slice(2).map(Number);
const isPipelined = process.argv[4] === "pipelined";
const CONNECTIONS = isPipelined ? 2 : 8; // of a process: more make it slower here

const findRow = "select id, randomnumber from world where id = $1";
const writeRows =
  "update world set randomnumber = new.number " +
  "from unnest($1::int[], $2::int[]) as new(id, number) where world.id = new.id";

const pool = new Pool({ max: CONNECTIONS });
const shared = [];
let turn = 0;
const cache = new Map();

async function oneRow(client) {
  const { rows } = await client.query({ name: "world", text: findRow, values: [random()] });
  return { id: rows[0].id, randomNumber: rows[0].randomnumber };
}

async function openShared() {
  while (shared.length < CONNECTIONS) {
    const client = new Client({ pipeline: true });
    await client.connect();
    shared.push(client);
  }
}

async function withClient(fn, ...args) {
  if (isPipelined) return fn(shared[turn++ % CONNECTIONS], ...args);
  const client = await pool.connect();
  try {
    return await fn(client, ...args);
  } finally {
    client.release();
  }
}

function someRows(client, count) {
  return Promise.all(Array.from({ length: count }, () => oneRow(client)));
}

async function updatedRows(client, count) {
  const rows = await someRows(client, count);
  for (const row of rows) row.randomNumber = random();
  rows.sort((a, b) => a.id - b.id);
  const values = [rows.map((row) => row.id), rows.map((row) => row.randomNumber)];
  await client.query({ name: "update", text: writeRows, values });
  return rows;
}

async function fortunes(client) {
  const query = { name: "fortune", text: "select id, message from fortune" };
  return fortunesPage((await client.query(query)).rows);
}

function cachedRows(count) {
  return Array.from({ length: count }, () => cache.get(random()));
}

async function fillCache() {
  const read = (client) => client.query("select id, randomnumber from world");
  const { rows } = await withClient(read);
  for (const row of rows) cache.set(row.id, { id: row.id, randomNumber: row.randomnumber });
  if (cache.size !== worldSize) throw new Error(`the world has ${cache.size} rows`);
}

function answer(response, type, body) {
  response.writeHead(200, { "Content-Type": type, "Content-Length": Buffer.byteLength(body) });
  response.end(body);
}

function answerJson(response, value) {
  answer(response, "application/json", JSON.stringify(value));
}

async function handle(request, response) {
  const [path, query] = request.url.split("?");
  if (path === "/db") answerJson(response, await withClient(oneRow));
  else if (path === "/queries")
    answerJson(response, await withClient(someRows, wanted(query)));
  else if (path === "/updates")
    answerJson(response, await withClient(updatedRows, wanted(query)));
  else if (path === "/fortunes")
    answer(response, "text/html; charset=utf-8", await withClient(fortunes));
  else if (path === "/cached-queries") answerJson(response, cachedRows(wanted(query)));
  else {
    response.writeHead(404);
    response.end();
  }
}

function failed(response, problem) {
  console.error(problem);
  response.writeHead(500);
  response.end();
}

async function serve() {
  if (isPipelined) await openShared();
  await fillCache();
  http
    .createServer((request, response) => {
      handle(request, response).catch((problem) => failed(response, problem));
    })
    .listen(port, "127.0.0.1", 2048);
}

if (cluster.isPrimary) for (let i = 0; i < processes; i++) cluster.fork();
else serve();
