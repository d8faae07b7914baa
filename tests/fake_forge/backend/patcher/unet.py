from backend.patcher.base import UnetPatcher

__all__ = ["UnetPatcher"]
