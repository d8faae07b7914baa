class OptionInfo:
    def __init__(
        self, default=None, label="", component=None, component_args=None, *, section=None, restrict_api=False
    ):
        self.default, self.label, self.component, self.component_args = default, label, component, component_args
        self.section, self.restrict_api, self.infos = section, restrict_api, []

    def info(self, text):
        self.infos.append(f"({text})")
        return self

    def needs_restart(self):
        return self

    def needs_reload_ui(self):
        return self


def options_section(section, options):
    for info in options.values():
        info.section = section
    return options
