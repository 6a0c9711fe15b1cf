"""Chats in files: read from the exports of other tools and chatlab's own, written for both. Knows no store.

`read_chats` and `read_export` tell the format by content and read a chat at a time; `write_chats` writes one at a time.
"""

from chatlab.exchange.exported import ExportedChat
from chatlab.exchange.read import read_chats, read_export
from chatlab.exchange.write import FORMATS, Count, FormatName, format_of, write_chats

__all__ = ["FORMATS", "Count", "ExportedChat", "FormatName", "format_of", "read_chats", "read_export", "write_chats"]
