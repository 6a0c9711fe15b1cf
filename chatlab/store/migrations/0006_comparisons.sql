-- Runs on DuckDB and PostgreSQL, like 0001. A row a vote; never changed afterwards.
CREATE TABLE comparisons (
    comparison_id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    chat_id TEXT NOT NULL, -- whose conversation was compared; empty for a question alone
    created_at TIMESTAMP NOT NULL,
    question TEXT NOT NULL,
    settings TEXT NOT NULL, -- JSON list of ChatSettings
    answers TEXT NOT NULL, -- JSON list of texts, in the same order
    shown TEXT NOT NULL, -- JSON list: the places of these, in the order in which they were shown
    winner INTEGER -- the place of the better one; NULL for none
);
CREATE INDEX comparisons_by_chat ON comparisons (chat_id);
