-- What only PostgreSQL has, beside schema.sql.

-- The index of the findings' words.
CREATE TABLE finding_words (
    rowid bigint PRIMARY KEY,
    words tsvector NOT NULL
);
CREATE INDEX finding_words_words ON finding_words USING gin (words);
