import gradio as gr


class InputAccordion:
    """A check box that is a container too."""

    def __init__(self, value, label, elem_id):
        self.box = gr.Checkbox(value=value, label=label, elem_id=elem_id, visible=False)
        self.container = gr.Accordion(label=label)

    def __enter__(self):
        self.container.__enter__()
        return self.box

    def __exit__(self, *args):
        self.container.__exit__(*args)
