from fakehost.condition import *  # noqa: F403
