"""Calls to the gateway that a page is looked at with."""

from __future__ import annotations

import asyncio

import httpx2

ASKED = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}


async def call(site: str, secret: str, *, until: int = 200) -> int:
    """The status of a call with this secret; asked again while the server has not heard of the latest change."""
    async with httpx2.AsyncClient() as client:
        for _ in range(50):
            address = f"{site}/v1beta/models/hello:generateContent"
            answer = await client.post(address, json=ASKED, headers={"x-goog-api-key": secret})
            if answer.status_code == until:
                break
            await asyncio.sleep(0.1)  # the notice is on its way to another process
    return answer.status_code
