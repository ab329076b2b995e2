"""The processing of rows: inputs, tokens, packing, encoding and committed Arrow parts.

Nothing here knows of Celery, Redis, Click or environment variables: `workers` decides where the
work runs, `jobs` takes the user's commands.
"""
