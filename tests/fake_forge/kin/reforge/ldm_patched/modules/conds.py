from fakehost.condition import Condition as CONDRegular

__all__ = ["CONDRegular"]
