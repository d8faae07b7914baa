"""The names under which Forge and Neo keep what `fakehost` does."""
