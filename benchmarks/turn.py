"""What chatlab adds to the bare engine's time to first token: one HTTP request to the first `delta` on the wire.

The server is a process of its own with the echo engine; the client writes to a plain socket, so that its own time
stays small. The bare engine is the same engine asked in this process.
"""

import asyncio
import json
import time
from contextlib import aclosing
from pathlib import Path

from benchmarks.report import p50, p95, write
from benchmarks.server import server
from chatlab.engines.base import GenerationRequest, Piece
from chatlab.engines.echo import EchoEngine

CLIENTS = (1, 32)
ROUNDS = 5
TURNS = 20  # a client and round
TOKENS_PER_SECOND = 50
MESSAGE = "What is the capital of France, and which river runs through the middle of it? " * 2
PORT = 7879


def main(json_file: Path | None = None) -> None:
    """Measure, print, and write the result."""
    result: dict[str, dict[str, float]] = {}
    with server(PORT, TOKENS_PER_SECOND):
        for clients in CLIENTS:
            ours: list[float] = []
            bare: list[float] = []
            for _ in range(ROUNDS):
                ours += asyncio.run(_clients(PORT, clients))
                bare += asyncio.run(_bare(clients))
            added = p50(ours) - p50(bare)
            result[str(clients)] = {"added_ms_p50": added, "added_ms_p95": p95(ours) - p95(bare), "n": len(ours)}
            print(
                f"{clients:3} clients: first token {p50(ours):.2f} ms over HTTP, {p50(bare):.2f} ms bare: "
                f"adds {added:.2f} ms p50, {p95(ours) - p95(bare):.2f} ms p95 ({len(ours)} turns)"
            )
    write({"ttft_added": result}, json_file)


async def _clients(port: int, clients: int) -> list[float]:
    each = await asyncio.gather(*(_client(port, number / clients) for number in range(clients)))
    return [ms for times in each for ms in times]


async def _client(port: int, phase: float) -> list[float]:
    """One person: a chat, one message after the other. Clients start spread over a second, as people do."""
    await asyncio.sleep(phase)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    chat = json.loads(await _post(reader, writer, "/chat", b"{}"))
    body = json.dumps({"userMessage": MESSAGE, "stream": True, "cache": {"scope": "off"}}).encode()
    times: list[float] = []
    for _ in range(TURNS):
        started = time.perf_counter()
        writer.write(_request(f"/chat/{chat['chatID']}/completion", body))
        await reader.readuntil(b"event: delta")
        times.append((time.perf_counter() - started) * 1e3)
        await reader.readuntil(b"event: done")
        await reader.readuntil(b"\r\n0\r\n\r\n")
    writer.close()
    return times[1:]  # the first one opens the connection's paths


def _request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: bytes) -> bytes:
    writer.write(_request(path, body))
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    return await reader.readexactly(length)


async def _bare(clients: int) -> list[float]:
    engine = EchoEngine(TOKENS_PER_SECOND)

    async def client() -> list[float]:
        times: list[float] = []
        for _ in range(TURNS - 1):
            started = time.perf_counter()
            async with aclosing(engine.stream(GenerationRequest([{"role": "user", "content": MESSAGE}]))) as chunks:
                async for chunk in chunks:
                    if isinstance(chunk, Piece):
                        times.append((time.perf_counter() - started) * 1e3)
                        break
        return times

    each = await asyncio.gather(*(client() for _ in range(clients)))
    return [ms for times in each for ms in times]
