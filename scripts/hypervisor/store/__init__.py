"""The state of a project: one transactional database, SQLite by default, PostgreSQL for many machines."""
