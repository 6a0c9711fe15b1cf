-- Runs on DuckDB and PostgreSQL: no foreign keys, no identity columns, no JSONB. Times are UTC without a zone.
CREATE TABLE chats (
    chat_id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    title TEXT,
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL,
    pinned BOOLEAN NOT NULL,
    system_prompt TEXT,
    history TEXT NOT NULL, -- JSON of HistoryChoice
    cache TEXT NOT NULL, -- JSON of CacheChoice
    params TEXT NOT NULL -- JSON of SamplingParams
);
CREATE TABLE turns (
    turn_id TEXT PRIMARY KEY,
    chat_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    parent_turn_id TEXT,
    user_message TEXT NOT NULL,
    created_at TIMESTAMP NOT NULL,
    assistant_message TEXT,
    status TEXT NOT NULL,
    source TEXT,
    error TEXT, -- JSON of Problem
    finished_at TIMESTAMP,
    finish_reason TEXT,
    provenance TEXT NOT NULL, -- JSON of Provenance
    prompt TEXT NOT NULL -- JSON of the StoredMessage list
);
CREATE INDEX turns_by_chat ON turns (chat_id);
CREATE TABLE feedback (
    turn_id TEXT PRIMARY KEY,
    chat_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    created_at TIMESTAMP NOT NULL,
    rating INTEGER NOT NULL, -- 1 or -1
    reason TEXT
);
