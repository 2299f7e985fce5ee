"""The routes of apps/bench, and what concurrency.lua compares, for FastAPI, run by uvicorn with uvloop and httptools."""

import asyncio
import threading
import time

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse

app = FastAPI()


@app.get("/plaintext", response_class=PlainTextResponse)
async def plaintext():
    return "Hello, World!"


@app.get("/json")
async def json():
    return {"message": "Hello, World!"}


@app.get("/user/{id}", response_class=PlainTextResponse)
async def user(id: str):
    return "user " + id


@app.post("/echo")
async def echo(request: Request):
    return await request.json()


@app.get("/health")
async def health():
    return {"status": "ok"}


@app.get("/async")
async def wait():
    await asyncio.sleep(2)
    return {"slept": 2, "thread": threading.get_native_id()}


@app.get("/sync")
def block():
    time.sleep(2)
    return {"slept": 2, "thread": threading.get_native_id()}
