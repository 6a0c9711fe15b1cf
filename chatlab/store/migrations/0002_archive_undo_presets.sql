-- Runs on DuckDB and PostgreSQL, like 0001. DuckDB adds a column only without constraints: NOT NULL comes after.
ALTER TABLE chats ADD COLUMN archived BOOLEAN DEFAULT FALSE;
ALTER TABLE chats ALTER COLUMN archived SET NOT NULL;
ALTER TABLE chats ADD COLUMN discarded_at TIMESTAMP; -- deleted by a person who may still undo it
CREATE TABLE presets (
    preset_id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    name TEXT NOT NULL, -- one of a name a user: saving it again replaces it
    system_prompt TEXT,
    history TEXT NOT NULL, -- JSON of HistoryChoice
    cache TEXT NOT NULL, -- JSON of CacheChoice
    params TEXT NOT NULL -- JSON of SamplingParams
);
