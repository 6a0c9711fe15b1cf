-- Runs on DuckDB and PostgreSQL, like 0001.
CREATE TABLE notes (
    note_id TEXT PRIMARY KEY,
    chat_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    turn_ids TEXT NOT NULL, -- JSON list of those that it stands for, in order
    source_hash TEXT NOT NULL, -- of their words
    text TEXT NOT NULL,
    statements TEXT NOT NULL, -- JSON of the Statement list
    kind TEXT NOT NULL,
    tokens_before INTEGER NOT NULL,
    tokens_after INTEGER NOT NULL,
    model TEXT NOT NULL,
    prompt_version INTEGER NOT NULL,
    latency_ms DOUBLE PRECISION NOT NULL,
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL,
    revision INTEGER NOT NULL
);
CREATE INDEX notes_by_chat ON notes (chat_id);
CREATE TABLE model_gates (
    model TEXT PRIMARY KEY, -- and the version of what it was asked
    passed BOOLEAN NOT NULL,
    measured TEXT NOT NULL, -- JSON: the figures
    created_at TIMESTAMP NOT NULL
);
