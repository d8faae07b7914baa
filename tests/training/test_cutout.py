"""What ours is compared with does what its name says."""

import pytest
import torch

from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.training.cutout import RemovalNetwork, colour_key, grab_cut

GROUND = torch.tensor([0.0, 0.8, 0.0])[None, :, None, None]


def disc(side=64, softness=1.0):
    line = torch.linspace(-1, 1, side)
    distance = (line[:, None] ** 2 + line[None] ** 2).sqrt()
    return ((0.6 - distance) / 0.02 * softness + 0.5).clamp(0, 1)[None, None]


def test_colour_key_and_grab_cut_find_a_hard_subject():
    alpha = disc()
    shown = GROUND + (torch.tensor([0.9, 0.1, 0.1])[None, :, None, None] - GROUND) * alpha
    assert (colour_key(shown, GROUND) - alpha).abs().mean() < 0.02
    assert (grab_cut(shown) - alpha).abs().mean() < 0.05


def test_the_network_sees_scaled_pixels_and_its_alpha_comes_back_in_size():
    class Session:
        def get_inputs(self):
            return [type("Input", (), {"name": "input"})]

        def run(self, _, feed):
            self.seen = torch.from_numpy(feed["input"])
            return [(self.seen[:, :1] * 256 + 128).numpy() / 255]

    session = Session()
    line = torch.linspace(0, 1, 64)
    shown = torch.stack([line.expand(3, 64, 64), line[:, None].expand(3, 64, 64)])
    alpha = RemovalNetwork(session)(shown)
    assert session.seen.shape == (1, 3, 1024, 1024)
    assert -0.5 <= session.seen.min() < session.seen.max() <= 0.5
    assert alpha.shape == (2, 1, 64, 64)
    assert (alpha - shown[:, :1]).abs().mean() < 0.05


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="not the unpacked package"):
        RemovalNetwork.from_package(tmp_path)
