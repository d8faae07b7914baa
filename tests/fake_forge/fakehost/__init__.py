"""What fakes of Forge's kin share: a small model, its sampling, and patchers of each kind.

A folder of `kin/` goes on `sys.path` too: it has the package by which that host's backend goes, and
a module `kin` whose `prepare()` makes of the shared `modules` what that host has.
"""
