"""Who holds an item: the store port and its implementations."""
