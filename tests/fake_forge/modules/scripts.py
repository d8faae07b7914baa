"""Scripts and their hooks: what a hook raises is reported and generation goes on."""

from functools import partialmethod

from modules import errors

AlwaysVisible = object()


class Script:
    args_from = args_to = 0


class PostprocessImageArgs:
    def __init__(self, image, index):
        self.image, self.index = image, index


class PostProcessMaskOverlayArgs:
    def __init__(self, index, mask_for_overlay, overlay_image):
        self.index, self.mask_for_overlay, self.overlay_image = index, mask_for_overlay, overlay_image


class PostSampleArgs:
    def __init__(self, samples):
        self.samples = samples


class ScriptRunner:
    """selectable: of which `p.script_args[0]` names the one that runs, 0 for none."""

    def __init__(self, scripts, selectable=()):
        self.scripts, self.selectable_scripts = scripts, list(selectable)

    def run(self, p):
        number = p.script_args[0]
        return self.selectable_scripts[number - 1].run(p) if number else None

    def call(self, hook, p, *args, **kwargs):
        for script in self.scripts:
            function = getattr(script, hook, None)
            if function is None:
                continue
            try:
                function(p, *args, *p.script_args[script.args_from : script.args_to], **kwargs)
            except Exception:  # noqa: BLE001
                errors.report(f"Error running {hook}", exc_info=True)


HOOKS = (
    "before_process",
    "process",
    "before_process_init_images",
    "process_before_every_sampling",
    "post_sample",
    "postprocess_batch",
    "postprocess_maskoverlay",
    "postprocess_image_after_composite",
    "postprocess",
)
for hook in HOOKS:
    setattr(ScriptRunner, hook, partialmethod(ScriptRunner.call, hook))
