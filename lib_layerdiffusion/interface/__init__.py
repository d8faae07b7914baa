"""The panel inside a host: its controls, their words and translations, and how it follows the chosen method.

Everything derives from the tables of methods and settings. It needs gradio, so a host imports the modules it uses.
"""
