"""GPTCache's half of `gptcache_process`, run by a Python that has it: fills the cache, then takes lists of questions.

A line of standard input is a JSON list; the answer is a line `= {"ms": [...], "served": n}`.
"""

# pyright: basic, reportMissingImports=false

import json
import sys
import time
from pathlib import Path

import numpy as np

ANSWER = "Take your time, and do one step after the other: first what is loose, then what is fixed. " * 8
MORE_THAN_THERE_ARE = 1_000_000


def main(embedder: str) -> None:
    """Fill, then answer until the input ends."""
    from gptcache import Cache
    from gptcache.adapter.api import get
    from gptcache.embedding import SBERT
    from gptcache.manager import CacheBase, VectorBase, get_data_manager
    from gptcache.processor.pre import get_prompt
    from gptcache.similarity_evaluation.distance import SearchDistanceEvaluation

    questions, vectors = json.loads(Path("questions.json").read_text()), np.load("vectors.npy")
    store = get_data_manager(
        CacheBase("sqlite", sql_url="sqlite:///gptcache.db"),
        VectorBase("faiss", dimension=vectors.shape[1], index_path="faiss.index"),
        max_size=MORE_THAN_THERE_ARE,
    )
    store.import_data(questions, [ANSWER] * len(questions), [*vectors], [None] * len(questions))
    cache = Cache()
    cache.init(
        pre_embedding_func=get_prompt,
        embedding_func=SBERT(embedder).to_embeddings,
        data_manager=store,
        similarity_evaluation=SearchDistanceEvaluation(),
    )
    get("Is this loaded?", cache_obj=cache)
    print("= {}", flush=True)
    for line in sys.stdin:
        times, served = [], 0
        for question in json.loads(line):
            started = time.perf_counter()
            served += get(question, cache_obj=cache) is not None
            times.append((time.perf_counter() - started) * 1e3)
        print("= " + json.dumps({"ms": times, "served": served}), flush=True)


main(sys.argv[1])
