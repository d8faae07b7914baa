"""The page outside hosts: what `app` serves, what its buttons do, the compose tool, and how it looks.

It needs gradio, so `layerdiffusion ui` imports `app` when it runs.
"""

ID = "layerdiffusion"
"""Ids in the page begin with this."""
