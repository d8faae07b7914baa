"""Scripts and their hooks: what a hook raises is reported and generation goes on."""

from modules import errors

AlwaysVisible = object()


class Script:
    args_from = args_to = 0


class PostprocessImageArgs:
    def __init__(self, image, index):
        self.image, self.index = image, index


class PostSampleArgs:
    def __init__(self, samples):
        self.samples = samples


class ScriptRunner:
    def __init__(self, scripts):
        self.scripts = scripts

    def call(self, hook, p, *args, **kwargs):
        for script in self.scripts:
            function = getattr(script, hook, None)
            if function is None:
                continue
            try:
                function(p, *args, *p.script_args[script.args_from : script.args_to], **kwargs)
            except Exception:  # noqa: BLE001
                errors.report(f"Error running {hook}", exc_info=True)
