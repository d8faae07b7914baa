"""Call-backs by kind, kept for whoever wants to call them."""

registered = {}


def _register(kind):
    def register(callback, *, name=None):
        registered.setdefault(kind, []).append(callback)

    return register


on_before_ui = _register("before_ui")
on_ui_settings = _register("ui_settings")
on_infotext_pasted = _register("infotext_pasted")
on_after_component = _register("after_component")
on_app_started = _register("app_started")
