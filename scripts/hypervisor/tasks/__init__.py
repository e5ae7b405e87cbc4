"""Task files: found, indexed, selected, claimed, completed, and their receipts."""
