"""Transformers' `generate`: one batch that starts together, padded on the left; keeps nothing between two calls."""

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.contenders.contender import Job, Setup, Timeline, now
from chatlab.engines.runtime.loading import load


def load_model(setup: Setup) -> Any:
    """The model as chatlab loads it, before it makes it its own."""
    torch.set_num_threads(setup.threads)
    return load(setup.source, torch.device(setup.device))[1]


def make(setup: Setup) -> "Generate":
    """The model alone."""
    return Generate(load_model(setup))


class Generate:
    """See `Contender`. All jobs begin together; the model's own end is ignored."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def run(self, jobs: Sequence[Job], enough: int) -> list[Timeline]:
        """One call for all."""
        n_new = min(enough, *(job.max_new_tokens for job in jobs))
        token_at: list[float] = []
        asked_at = now()
        width = max(len(job.token_ids) for job in jobs)
        ids = torch.zeros((len(jobs), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, job in enumerate(jobs):
            ids[row, width - len(job.token_ids) :] = torch.tensor(job.token_ids)
            mask[row, width - len(job.token_ids) :] = 1
        device = self._model.device

        def note(input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
            """Called after each token; ends nothing."""
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            token_at.append(now())
            return torch.zeros(len(input_ids), dtype=torch.bool, device=device)

        with torch.inference_mode():
            answers = self._model.generate(
                ids.to(device),
                attention_mask=mask.to(device),
                do_sample=False,
                min_new_tokens=n_new,
                max_new_tokens=n_new,
                pad_token_id=0,
                stopping_criteria=[note],
            )
        return [Timeline(asked_at, token_at, answer) for answer in answers[:, width:].tolist()]

    def close(self) -> None:
        """No threads of its own."""
