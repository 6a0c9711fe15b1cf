"""Where chats and turns are kept. `Store` is what the rest of chatlab is written against."""

from chatlab.store.answers import AnswerRows, EntryPage
from chatlab.store.browse import SearchHit
from chatlab.store.comparisons import Vote, VoteRows
from chatlab.store.duckdb import DuckDBStore as Store
from chatlab.store.rows import Page

__all__ = ["AnswerRows", "EntryPage", "Page", "SearchHit", "Store", "Vote", "VoteRows"]
