"""What finished tasks teach: statistics, advice on concurrency, lessons, and the hive."""
