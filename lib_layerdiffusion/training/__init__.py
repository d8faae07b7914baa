"""How a family of LayerDiffuse weights is made: data, VAE, base model, transparency networks, layer files.

Needs the `[train]` extra. Nothing in the rest of the library imports this package.
"""
