"""Several hosts on one machine: network namespaces, a real PostgreSQL, a bare repository, real commands."""
