"""Remember, find and answer in one process, with no server: nano, the model of the package, does it.

Run: python examples/quickstart.py [FOLDER]
"""

import sys

from memlora_plugins import Memory, Message, Scope

ana = Scope("ana")
with Memory.open(path=sys.argv[1] if len(sys.argv) > 1 else ".memlora") as memory:
    for line in ("I live in Porto.", "I'm allergic to peanuts.", "I moved to Madrid."):
        for event in memory.add([Message("user", line)], scope=ana).events:
            print(event.operation, event.fact.text)
    print("found:", memory.search("Where does she live?", scope=ana, kinds=["fact"], limit=1)[0].text)
    print("answer:", memory.answer("Where do I live?", scope=ana).text)
    print("for a prompt:", memory.context("Can I cook satay for her?", scope=ana, token_budget=200), sep="\n")
