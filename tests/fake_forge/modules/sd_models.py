"""The list of checkpoints."""

checkpoints = {}


def get_closet_checkpoint_match(name):
    return checkpoints.get(name)
