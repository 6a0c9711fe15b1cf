-- Runs on DuckDB and PostgreSQL, like 0001. Not NOT NULL: DuckDB cannot alter a column of an indexed table.
ALTER TABLE turns ADD COLUMN pinned BOOLEAN DEFAULT FALSE; -- stays in the prompt of every later turn
