"""Chats in files: read from the exports of other tools and chatlab's own, written for both. Knows no store.

`read_chats` and `read_export` tell the format by content and read a chat at a time.
"""

from chatlab.exchange.exported import ExportedChat
from chatlab.exchange.read import read_chats, read_export

__all__ = ["ExportedChat", "read_chats", "read_export"]
