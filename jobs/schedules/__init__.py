"""Schedules: job files that run at the times of their `cron`, each slot once."""
