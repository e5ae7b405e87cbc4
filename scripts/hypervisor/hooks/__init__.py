"""Calls of the clients' hooks: what is decided, what is told to a session, and what wakes it."""
