"""What happens to rows: sources, tokens, packing, encoders and committed Arrow parts.

Nothing here knows of Celery, Redis, Click or environment variables: where the work runs is
the business of `workers`, what the user asks for is the business of `jobs`.
"""
