"""The routes of apps/bench for FastAPI, run by uvicorn with uvloop and httptools."""

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
