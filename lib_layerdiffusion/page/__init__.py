"""The parts of the page that `app` serves: what its buttons do, the compose tool, and how it looks."""

ID = "layerdiffusion"
"""Ids in the page begin with this."""
