ui_checkpoint = None
