"""Texts, pairs and long texts → flat token ids and offsets."""
