// What node_database.js and bun_database.js share: all that is no driver and no server.
"use strict";

const worldSize = 10000;
const escapes = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

const random = () => 1 + Math.floor(Math.random() * worldSize);

// How many rows "n=20" asks for.
function wanted(query) {
  const count = Math.floor(Number(query && query.startsWith("n=") ? query.slice(2) : 1));
  return count >= 1 ? Math.min(count, 500) : 1;
}

const escape = (text) => text.replace(/[&<>"']/g, (byte) => escapes[byte]);

function fortunesPage(rows) {
  rows.push({ id: 0, message: "Additional fortune added at request time." });
  rows.sort((a, b) => (a.message < b.message ? -1 : 1));
  let page =
    "<!DOCTYPE html><html><head><title>Fortunes</title></head><body><table>" +
    "<tr><th>id</th><th>message</th></tr>";
  for (const row of rows)
    page += `<tr><td>${row.id}</td><td>${escape(row.message)}</td></tr>`;
  return page + "</table></body></html>";
}

module.exports = { worldSize, random, wanted, fortunesPage };
