// The routes of apps/bench for node's http module in a cluster: node node.js PORT PROCESSES
"use strict";
const cluster = require("cluster");
const http = require("http");

const [port, processes] = process.argv.slice(2).map(Number);

function answer(response, type, body) {
  response.writeHead(200, { "Content-Type": type, "Content-Length": Buffer.byteLength(body) });
  response.end(body);
}

function answerBody(request, response) {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const value = JSON.parse(Buffer.concat(chunks).toString());
    answer(response, "application/json", JSON.stringify(value));
  });
}

function handle(request, response) {
  const text = "text/plain; charset=utf-8";
  if (request.url === "/plaintext") answer(response, text, "Hello, World!");
  else if (request.url === "/json")
    answer(response, "application/json", JSON.stringify({ message: "Hello, World!" }));
  else if (request.url.startsWith("/user/")) answer(response, text, "user " + request.url.slice(6));
  else if (request.url === "/echo") answerBody(request, response);
  else {
    response.writeHead(404);
    response.end();
  }
}

if (cluster.isPrimary) for (let i = 0; i < processes; i++) cluster.fork();
else http.createServer(handle).listen(port, "127.0.0.1", 2048);
