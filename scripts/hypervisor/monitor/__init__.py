"""The machine and its processes: metrics, zones, limits on agents, and the budget."""
