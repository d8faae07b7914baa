"""The names under which reForge and classic keep what `fakehost` does."""
