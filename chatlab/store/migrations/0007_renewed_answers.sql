-- Runs on DuckDB and PostgreSQL, like 0001.
ALTER TABLE cache_lookups ADD COLUMN renewed BOOLEAN; -- whether an audit's answer serves the question from then on
