"""What the model sees of a conversation: the prompt, within a token budget, counted exactly."""

from chatlab.history.prompt import Prompt, PromptBuilder, PromptInput
from chatlab.history.recall import Recall
from chatlab.history.recipe import stored_messages
from chatlab.history.strategies import recalls

__all__ = ["Prompt", "PromptBuilder", "PromptInput", "Recall", "recalls", "stored_messages"]
