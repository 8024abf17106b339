"""What the plugs of every framework need and no framework is needed for.

`doors`: one flow for a framework's sync and async methods. `recalled`: memories for a model's prompt. `tools`: memory
in the hands of an agent. The packages in `integrations/` put these into the classes that their framework asks for.
"""
