"""The ways in which an item is processed, behind one small port."""
