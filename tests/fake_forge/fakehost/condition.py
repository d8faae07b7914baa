import math

import torch


class Condition:
    def __init__(self, cond):
        self.cond = cond


class ConditionCrossAttn(Condition):
    pass


def joined(values):
    """Rows of several groups; contexts of different lengths are repeated to a common one."""
    length = math.lcm(*(value.shape[1] for value in values)) if values[0].ndim == 3 else None
    return torch.cat([v.repeat(1, length // v.shape[1], 1) if length else v for v in values])


def compile_conditions(cond):
    return [{"cross_attn": cond, "model_conds": {"c_crossattn": ConditionCrossAttn(cond)}}]


def compile_weighted_conditions(cond, weights):
    groups = []
    for column in zip(*weights, strict=True):
        group = compile_conditions(cond[[index for index, _ in column]])[0]
        group["strength"] = column[-1][1]
        groups.append(group)
    return groups
