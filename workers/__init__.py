"""Where shards run: here, or on a Celery queue. The only importer of Celery and Redis."""
