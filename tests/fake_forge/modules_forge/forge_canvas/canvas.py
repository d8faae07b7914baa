import gradio as gr


class ForgeCanvas:
    def __init__(self, numpy=False, no_scribbles=False, height=512, elem_id=None, elem_classes=None):
        self.block = gr.HTML("", elem_id=elem_id)
        self.background = gr.Textbox(visible=False)
