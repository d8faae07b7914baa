"""Call-backs by category, kept for whoever wants to call them."""

registered = {category: [] for category in ("ui_settings", "infotext_pasted", "after_component", "app_started")}
callback_map = {f"callbacks_{category}": callbacks for category, callbacks in registered.items()}


def add_callback(callbacks, fun, *, name=None, category="unknown", filename=None):
    callbacks.append(fun)
