"""What runs teach: throughput by class, advice on concurrency, lessons, and the hive."""
