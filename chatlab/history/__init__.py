"""What the model sees of a conversation: the prompt, within a token budget, counted exactly."""

from chatlab.history.prompt import Prompt, PromptBuilder, PromptInput
from chatlab.history.recall import Recall
from chatlab.history.recipe import stored_messages

__all__ = ["Prompt", "PromptBuilder", "PromptInput", "Recall", "stored_messages"]
