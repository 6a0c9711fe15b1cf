"""chatlab: chats whose every answer shows where it came from and what it cost.

`chatlab.open(data_dir)` is the way in from Python and Jupyter; what it needs is imported when it is first asked for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatlab.lab import Lab as Lab
    from chatlab.lab import LabChat as LabChat
    from chatlab.lab import LabTurn as LabTurn
    from chatlab.lab import TurnFailed as TurnFailed
    from chatlab.lab import open as open

__version__ = "0.1.0"

if not TYPE_CHECKING:  # or every misspelt name would pass the type checker

    def __getattr__(name: str) -> object:
        if name not in {"Lab", "LabChat", "LabTurn", "TurnFailed", "open"}:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import chatlab.lab

        return getattr(chatlab.lab, name)
