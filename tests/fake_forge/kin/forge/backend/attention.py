from fakehost.attention import *  # noqa: F403
