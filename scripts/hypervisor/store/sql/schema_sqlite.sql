-- What only SQLite has, beside schema.sql.

-- The index of the findings' words; it keeps no text of its own.
CREATE VIRTUAL TABLE finding_words USING fts5 (words, content = '', tokenize = 'porter unicode61');
