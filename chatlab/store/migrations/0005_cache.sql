-- Runs on DuckDB and PostgreSQL, like 0001.
CREATE TABLE cache_entries (
    entry_id TEXT PRIMARY KEY,
    bucket TEXT NOT NULL, -- what must be equal for it to be served
    question TEXT NOT NULL,
    answer TEXT NOT NULL,
    user_id TEXT NOT NULL,
    chat_id TEXT NOT NULL, -- that it is from
    turn_id TEXT NOT NULL,
    saved_tokens INTEGER NOT NULL,
    cost_ms DOUBLE PRECISION NOT NULL,
    created_at TIMESTAMP NOT NULL,
    expires_at TIMESTAMP NOT NULL,
    hits INTEGER NOT NULL
);
CREATE INDEX cache_entries_by_chat ON cache_entries (chat_id);
CREATE TABLE cache_lookups (
    turn_id TEXT PRIMARY KEY,
    chat_id TEXT NOT NULL, -- empty for a stateless request
    user_id TEXT NOT NULL,
    created_at TIMESTAMP NOT NULL,
    scope TEXT NOT NULL,
    outcome TEXT NOT NULL,
    tier TEXT,
    entry_id TEXT, -- served, or the nearest
    similarity DOUBLE PRECISION,
    score DOUBLE PRECISION,
    threshold DOUBLE PRECISION,
    guard TEXT, -- that refused the nearest
    lookup_ms DOUBLE PRECISION NOT NULL,
    saved_tokens INTEGER NOT NULL,
    saved_ms DOUBLE PRECISION NOT NULL,
    verifier TEXT NOT NULL, -- that scored
    own BOOLEAN, -- whether the entry is the user's
    same BOOLEAN, -- whether the entry's answer serves the question, where that is known
    label_weight DOUBLE PRECISION, -- lookups that the label stands for
    label_source TEXT -- who says so
);
CREATE INDEX cache_lookups_by_chat ON cache_lookups (chat_id);
