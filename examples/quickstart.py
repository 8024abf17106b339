"""Remember and find, in one process, with no server and no model. Run: python examples/quickstart.py [FOLDER]"""

import sys

from memlora_plugins import Memory, Message, Scope

ana = Scope("ana")
with Memory.open(path=sys.argv[1] if len(sys.argv) > 1 else ".memlora") as memory:
    memory.add([Message("user", "I moved to Lisbon in May, with my dog Biscuit.")], scope=ana)
    memory.add([Message("user", "Never give me peanuts, I am allergic.")], scope=ana)
    print("found:", memory.search("Where does she live?", scope=ana, limit=1)[0].text)
    print("for a prompt:", memory.context("Can I cook satay for her?", scope=ana, token_budget=200), sep="\n")
