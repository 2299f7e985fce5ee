"""The endpoints of database.lua for FastAPI and asyncpg, run by uvicorn with uvloop and httptools.

PGHOST … say where the database is.
"""

from random import randint

import asyncpg
from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse

WORLD_SIZE = 10000
CONNECTIONS = 8  # of a process: more make it slower here
FIND_ROW = "select id, randomnumber from world where id = $1"
WRITE_ROWS = (
    "update world set randomnumber = new.number "
    "from unnest($1::int[], $2::int[]) as new(id, number) where world.id = new.id"
)
ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}
)

app = FastAPI()
cache = {}
pool = None


@app.on_event("startup")
async def open_pool():
    global pool
    pool = await asyncpg.create_pool(min_size=CONNECTIONS, max_size=CONNECTIONS)
    for row in await pool.fetch("select id, randomnumber from world"):
        cache[row[0]] = {"id": row[0], "randomNumber": row[1]}


def random_number():
    return randint(1, WORLD_SIZE)


def wanted(text):
    try:
        return min(max(int(text), 1), 500)
    except ValueError:
        return 1


async def one_row(connection):
    row = await connection.fetchrow(FIND_ROW, random_number())
    return {"id": row[0], "randomNumber": row[1]}


async def some_rows(connection, count):
    return [await one_row(connection) for _ in range(count)]


@app.get("/db")
async def db():
    async with pool.acquire() as connection:
        return JSONResponse(await one_row(connection))


@app.get("/queries")
async def queries(n: str = "1"):
    async with pool.acquire() as connection:
        return JSONResponse(await some_rows(connection, wanted(n)))


@app.get("/updates")
async def updates(n: str = "1"):
    async with pool.acquire() as connection:
        rows = await some_rows(connection, wanted(n))
        for row in rows:
            row["randomNumber"] = random_number()
        rows.sort(key=lambda row: row["id"])
        ids, numbers = [row["id"] for row in rows], [row["randomNumber"] for row in rows]
        await connection.execute(WRITE_ROWS, ids, numbers)
    return JSONResponse(rows)


@app.get("/fortunes")
async def fortunes():
    async with pool.acquire() as connection:
        found = await connection.fetch("select id, message from fortune")
    rows = [(row[0], row[1]) for row in found]
    rows.append((0, "Additional fortune added at request time."))
    rows.sort(key=lambda row: row[1])
    cells = "".join(
        f"<tr><td>{id}</td><td>{message.translate(ESCAPES)}</td></tr>" for id, message in rows
    )
    return HTMLResponse(
        "<!DOCTYPE html><html><head><title>Fortunes</title></head><body><table>"
        f"<tr><th>id</th><th>message</th></tr>{cells}</table></body></html>"
    )


@app.get("/cached-queries")
async def cached_queries(n: str = "1"):
    return JSONResponse([cache[random_number()] for _ in range(wanted(n))])
