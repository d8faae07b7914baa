from fakehost import kind

UnetPatcher = kind.unet_patcher
