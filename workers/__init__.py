"""Runs shards: on this machine, or from a Celery queue. The only importer of Celery and Redis."""
