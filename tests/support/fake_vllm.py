"""Run as an interpreter that "has vLLM": answers the probe, then plays a server that becomes healthy.

FAKE_VLLM chooses how it behaves: `die` ends at once, `hang` never listens, `stubborn` ignores SIGTERM.
FAKE_VLLM_RECORD is a file for what it was started with; its child process's id is written next to it.
"""

import json
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()


def main(arguments):
    if arguments[0] == "-c":
        print(json.dumps([True, os.environ.get("FAKE_VLLM_BUILD", "cpu") == "cpu"]))  # noqa: T201
        return
    behaviour = os.environ.get("FAKE_VLLM", "")
    print("loading weights", flush=True)  # noqa: T201
    if behaviour == "die":
        sys.exit("ValueError: the model is broken")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    environment = {name: value for name, value in os.environ.items() if name.startswith(("VLLM_", "HF_", "DO_", "PY"))}
    record = {"arguments": arguments, "environment": environment, "child": child.pid}
    Path(os.environ["FAKE_VLLM_RECORD"]).write_text(json.dumps(record))
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour == "hang":
        signal.pause()
    HTTPServer(("127.0.0.1", int(arguments[arguments.index("--port") + 1])), Health).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
