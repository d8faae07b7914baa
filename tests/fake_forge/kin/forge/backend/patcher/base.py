from fakehost import kind

ModelPatcher = kind.patcher
