"""How much of a prompt goes into one step, so that the answers that are flowing keep flowing.

Measures on the spot what a step of answers takes and what a prompt's token adds to it; knows no machine by name.
"""

from dataclasses import dataclass

SLOWER = 2.7  # a step with a part of a prompt in it may take so many times one without
IDLE_STEP_SECONDS = 0.1  # of a step that nobody waits for: a request that arrives waits for its end
STEP_TOKENS = 16  # CPUs and GPUs compute so many rows in the time of fewer
WEIGHT = 0.3  # of the newest measurement
STALE_STEPS = 8  # after so many with parts of prompts, one without is measured again


@dataclass(slots=True)
class Pace:
    """Moving averages of what steps take.

    Attributes:
        max_tokens: Of a prompt, in a step without answers.
        answers_s: A step of answers alone, seconds.
        token_s: What each token of a prompt adds, seconds.
    """

    max_tokens: int
    answers_s: float = 0.0
    token_s: float = 0.0
    _mixed_steps: int = 0  # since answers alone were measured

    def prompt_tokens(self, n_answers: int) -> int:
        """Most tokens of prompts for the next step, beside those of `n_answers` answers."""
        if not n_answers:
            return self.max_tokens
        if self._mixed_steps >= STALE_STEPS:
            return 0
        wanted = (SLOWER - 1) * self.answers_s / self.token_s if self.answers_s and self.token_s else STEP_TOKENS
        whole = round((wanted + n_answers) / STEP_TOKENS) * STEP_TOKENS  # both together fill whole blocks of rows
        return min(max(whole - n_answers, STEP_TOKENS), self.max_tokens)

    def idle_tokens(self) -> int:
        """Most tokens for a step that nobody waits for."""
        whole = int(IDLE_STEP_SECONDS / self.token_s) // STEP_TOKENS * STEP_TOKENS if self.token_s else STEP_TOKENS
        return min(max(whole, STEP_TOKENS), self.max_tokens)

    def took(self, n_answers: int, n_prompt_tokens: int, seconds: float) -> None:
        """Learn from a step."""
        self._mixed_steps = self._mixed_steps + 1 if n_answers and n_prompt_tokens else 0
        if not n_prompt_tokens:
            self.answers_s = _averaged(self.answers_s, seconds)
        elif not n_answers or self.answers_s:
            added = seconds - (self.answers_s if n_answers else 0.0)
            self.token_s = _averaged(self.token_s, max(added, 0.0) / n_prompt_tokens)


def _averaged(old: float, new: float) -> float:
    return old + WEIGHT * (new - old) if old else new
