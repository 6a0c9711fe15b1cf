"""chatlab from Python and Jupyter: the same service as the web's, in this process and without a server."""

from chatlab.lab.chat import LabChat
from chatlab.lab.lab import Lab, open
from chatlab.lab.page import LabPage
from chatlab.lab.turn import LabTurn, TurnFailed

__all__ = ["Lab", "LabChat", "LabPage", "LabTurn", "TurnFailed", "open"]
