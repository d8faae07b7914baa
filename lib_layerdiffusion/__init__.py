"""Latent transparency for latent diffusion models: native RGBA pictures, layer by layer.

A reimplementation of "Transparent Image Layer Diffusion using Latent Transparency" (Zhang & Agrawala, 2024).
"""
