"""The main job, from a request to finished layers: pictures, chains of two steps, and batch jobs, on any host.

The engine is handed its host and its weights; `lib_layerdiffusion.LayerDiffusion` is where one meets diffusers.
"""
