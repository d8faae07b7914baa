"""The Extras tab's scripts, one after the other on one picture; what they add goes through those that follow."""


class PostprocessedImage:
    def __init__(self, image):
        self.image, self.info, self.extra_images = image, {}, []


class ScriptPostprocessingRunner:
    def __init__(self, scripts=()):
        self.scripts = scripts

    def run(self, pp, args):
        every = [pp]
        for script in self.scripts:
            for one in list(every):
                script.process(one, *args)
                every += [PostprocessedImage(extra) for extra in one.extra_images]
                one.extra_images = []
        pp.extra_images = every[1:]
