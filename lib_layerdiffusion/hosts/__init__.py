"""Adapters: one per program that samples."""
