"""llama.cpp's own server, from the package xllamacpp, as a process: `python llama_server.py MODEL.gguf PORT`."""

import importlib
import signal
import sys
from typing import Any


def main(model: str, port: int) -> None:
    xllamacpp: Any = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_ctx = 2_048
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
    server = xllamacpp.Server(params)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    del server


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
