"""Trains what tells questions that need their conversation, `chatlab/cache/context.npz`, and prints how well it does.

On `data/cache_context.jsonl` alone. Needs scikit-learn, which the embedder brings.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from chatlab.cache.context import ALONE, EMBEDDING_SCALE, TIED, WEIGHTS, Weights, features, tie
from chatlab.cache.reading import read
from chatlab.embedding import Embedder

ROOT = Path(__file__).parent.parent
PENALTY = 0.3  # C


async def main() -> None:
    """Train and report."""
    lines = (ROOT / "data" / "cache_context.jsonl").read_text(encoding="utf-8").splitlines()
    messages = [json.loads(line) for line in lines]
    topics = (ROOT / "data" / "cache_topics.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [[wordings[1] for wordings in json.loads(line)["questions"]] for line in topics]
    embedder = Embedder()
    vectors = (await embedder.embed([message["text"] for message in messages])).vectors.astype(np.float64)
    in_topics = [(await embedder.embed(each)).vectors for each in asked]
    embedder.close()

    needed = np.array([message["needs_context"] for message in messages])
    found = np.array([features(read(message["text"])) for message in messages])
    mean, scale = found.mean(axis=0), found.std(axis=0) + 1e-9
    inputs = np.hstack([(found - mean) / scale, EMBEDDING_SCALE * vectors])
    model = LogisticRegression(C=PENALTY, max_iter=5_000)
    odds = cross_val_predict(model, inputs, needed, cv=10, method="decision_function")
    shares = [float(np.mean(odds[kind] > limit)) for kind in (needed, ~needed) for limit in (0, -ALONE)]
    print(f"{len(messages)} messages; flagged at log odds of 0 and {-ALONE}:")
    print("those that need it {:.3f} {:.3f}, the others {:.3f} {:.3f}".format(*shares))
    own = [tie(each[-1], [*each[:-1]]) > TIED for each in in_topics]
    other = [tie(each[-1], [*before[:-1]]) > TIED for each, before in zip(in_topics, in_topics[1:], strict=False)]
    print(f"tied to a chat on its topic {np.mean(own):.3f}, to one on another {np.mean(other):.3f}")

    model.fit(inputs, needed)
    weights, embedding = np.split(model.coef_[0], [found.shape[1]])
    trained = Weights(mean, scale, weights, EMBEDDING_SCALE * embedding, np.asarray(model.intercept_)[0])
    arrays: dict[str, Any] = {name: np.float32(getattr(trained, name)) for name in Weights.__dataclass_fields__}
    np.savez(ROOT / "chatlab" / "cache" / WEIGHTS, **arrays)


if __name__ == "__main__":
    asyncio.run(main())
