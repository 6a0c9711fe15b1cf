"""What the model sees of a conversation: the prompt, within a token budget, counted exactly."""

from chatlab.history.prompt import Prompt, PromptBuilder, PromptInput, stored_messages

__all__ = ["Prompt", "PromptBuilder", "PromptInput", "stored_messages"]
