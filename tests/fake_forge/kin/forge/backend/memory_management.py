from fakehost.memory_management import *  # noqa: F403
