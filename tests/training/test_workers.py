"""Pictures drawn on all cores are those drawn on one."""

import os

import numpy as np

from lib_layerdiffusion.training import workers
from lib_layerdiffusion.training.pools import soft_pool


def _square(number):
    return np.array([number**2, os.getpid()])


def test_processes_give_the_same_in_the_same_order(monkeypatch):
    alone = np.stack(workers.in_parallel(_square, range(100)))
    monkeypatch.setattr(workers, "_FEW_CORES", 0)
    together = np.stack(workers.in_parallel(_square, range(100)))
    assert (alone[:, 0] == together[:, 0]).all()
    assert set(together[:, 1]) - {os.getpid()}


def test_a_pool_does_not_depend_on_the_number_of_cores(monkeypatch):
    alone = soft_pool.__wrapped__(32, 80)
    monkeypatch.setattr(workers, "_FEW_CORES", 0)
    assert (soft_pool.__wrapped__(32, 80) == alone).all()
