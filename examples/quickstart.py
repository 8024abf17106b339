"""Remember, change and ask, in one process, with the model that ships. Run: python examples/quickstart.py [FOLDER]"""

import sys

from memlora_plugins import Memory, Message, Scope

ana = Scope("ana")
with Memory.open(path=sys.argv[1] if len(sys.argv) > 1 else ".memlora") as memory:
    memory.add([Message("user", "I moved to Porto. I'm allergic to peanuts.")], scope=ana)
    for event in memory.add([Message("user", "Guess what! I moved to Lisbon.")], scope=ana).events:
        print(event.operation, event.fact.text)
    print("answer:", memory.answer("Where do I live?", scope=ana).text)
    print("for a prompt:", memory.context("Can I cook satay for her?", scope=ana, token_budget=200), sep="\n")
