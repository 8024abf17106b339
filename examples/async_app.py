"""Many people at once on one event loop. Run: python examples/async_app.py [FOLDER]

Each person only ever finds what they said themselves. `wait=False` returns as soon as the turn is durable; facts are
distilled behind it, by nano or the model that is configured (see real_servers.py).
"""

import asyncio
import sys

from memlora_plugins import AsyncMemory, Message, Scope

CITIES = {"ana": "Lisbon", "ben": "Oslo", "chloe": "Lyon"}


async def serve(memory: AsyncMemory, user: str, city: str) -> str:
    """One request of one person: remember a line, then recall for a prompt."""
    scope = Scope(user, session_id="first")
    await memory.add([Message("user", f"I live in {city} now.")], scope=scope, wait=False)
    return await memory.context("Where do I live?", scope=scope)


async def main(folder: str) -> None:
    async with await AsyncMemory.open(path=folder) as memory:
        recalled = await asyncio.gather(*(serve(memory, user, city) for user, city in CITIES.items()))
        for user, text in zip(CITIES, recalled, strict=True):
            print(f"{user}: {text}")
        await memory.erase(scope=Scope("ben"))
        print("ben, erased:", await memory.search("Where do I live?", scope=Scope("ben")))


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else ".memlora"))
