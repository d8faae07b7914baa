import gradio as gr


class InputAccordion(gr.Checkbox):
    """A check box that is a container too."""

    webui_do_not_create_gradio_pyi_thank_you = True

    def __new__(cls, *args, **kwargs):
        box = gr.Checkbox(value=kwargs["value"], label=kwargs["label"], elem_id=kwargs["elem_id"], visible=False)
        container = gr.Accordion(label=kwargs["label"])
        return _Both(box, container)


class _Both:
    def __init__(self, box, container):
        self.box, self.container = box, container

    def __enter__(self):
        self.container.__enter__()
        return self.box

    def __exit__(self, *args):
        self.container.__exit__(*args)
