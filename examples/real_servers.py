"""Facts and answers from a vLLM server, kept on a Qdrant server (or in a folder where no Qdrant server is named).

memlora serve --model Qwen/Qwen2.5-1.5B-Instruct --adapter extraction=… --adapter update=… --adapter generation=…
export MEMLORA_BASE_URL=http://127.0.0.1:8000 MEMLORA_MODEL=Qwen/Qwen2.5-1.5B-Instruct
export MEMLORA_ADAPTERS='{"extraction": "…", "update": "…", "generation": "…"}'
export MEMLORA_QDRANT_URL=http://127.0.0.1:6333          # and MEMLORA_QDRANT_API_KEY
python examples/real_servers.py
"""

import sys

from memlora_plugins import MemloraError, Memory, Message, Scope, Token


def main() -> None:
    ana = Scope("ana", agent_id="example")
    with Memory.open() as memory:  # everything from the environment
        print(memory)
        for text in ("I moved to Porto in January.", "I live in Lisbon since May."):
            result = memory.add([Message("user", text)], scope=ana)
            for event in result.events:
                print(event.operation, event.fact.text)
            for failure in result.errors:  # nothing is lost: the turn stays pending
                print("still to distil:", failure)
        for event in memory.stream("Where do I live?", scope=ana):
            if isinstance(event, Token):
                print(event.text, end="", flush=True)
        print()


try:
    main()
except MemloraError as error:
    sys.exit(f"error: {error}")
