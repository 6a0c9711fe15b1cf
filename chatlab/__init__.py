"""chatlab: chats whose every answer shows where it came from and what it cost."""

__version__ = "0.1.0"
