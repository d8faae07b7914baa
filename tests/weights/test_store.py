from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from lib_layerdiffusion.errors import WeightsError
from lib_layerdiffusion.methods import METHODS, VAE_FILES, Family
from lib_layerdiffusion.networks import TransparentDecoder, TransparentEncoder
from lib_layerdiffusion.unet.injection import CONV_IN
from lib_layerdiffusion.weights import WeightStore

ATTENTION = METHODS["(SDXL) Only Generate Transparent Image (Attention Injection)"]


def offsets(conditions: int) -> dict[str, torch.Tensor]:
    state = {"diffusion_model.input_blocks.1.1.proj_in.bias::diff::0": torch.zeros(4)}
    if conditions:
        state[f"diffusion_model.{CONV_IN}::diff::0"] = torch.zeros(8, 4 + 4 * conditions, 3, 3)
    return state


def put(folder, name: str, state: dict[str, torch.Tensor]) -> None:
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / f"{name}.safetensors")


@pytest.fixture
def store(hub, tmp_path) -> WeightStore:
    folder = tmp_path / "layer_model"
    folder.mkdir()
    return WeightStore([folder, tmp_path / "other"])


def test_a_file_is_fetched_once_and_read_once(store, hub):
    first = store.layer(ATTENTION)
    assert store.layer(ATTENTION) is first
    assert hub.downloads == 1
    assert WeightStore(store.folders).layer(ATTENTION).keys() == first.keys()
    assert hub.downloads == 1


def test_a_file_that_changes_is_read_again(store):
    method = METHODS.find("fg-to-blend")
    put(store.folders[0], method.weights, offsets(1))
    first = store.layer(method)
    put(store.folders[0], method.weights, {**offsets(1), "diffusion_model.out.2.bias::diff::0": torch.zeros(4)})
    assert len(store.layer(method)) == len(first) + 1


def test_each_family_has_its_own_networks_and_both_stay(store):
    torch.manual_seed(0)
    for family, pair in VAE_FILES.items():
        width = {Family.SD15: 8, Family.SDXL: 16}[family]
        decoder = TransparentDecoder(channels=(width,) * 4, layers=1, attention_levels=1, latent_level=3)
        put(store.folders[0], pair.decoder, decoder.state_dict())
        put(store.folders[0], pair.encoder, TransparentEncoder().state_dict())
    decoders = {family: store.decoder(family) for family in Family}
    encoders = {family: store.encoder(family) for family in Family}
    assert [decoders[family].channels[0] for family in (Family.SD15, Family.SDXL)] == [8, 16]
    assert all(store.decoder(family) is decoders[family] for family in Family)
    assert all(store.encoder(family) is encoders[family] for family in Family)
    assert encoders[Family.SD15] is not encoders[Family.SDXL]


def test_one_file_may_serve_both_families(tmp_path):
    own, shared = (VAE_FILES[family].encoder for family in (Family.SD15, Family.SDXL))
    put(tmp_path, shared, TransparentEncoder().state_dict())
    with pytest.raises(WeightsError, match=own):
        WeightStore([tmp_path], may_fetch=False).encoder(Family.SD15)
    store = WeightStore([tmp_path], may_fetch=False, same={own: shared})
    ours, theirs = store.encoder(Family.SD15).state_dict(), store.encoder(Family.SDXL).state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_only_a_few_contents_stay_in_memory(store):
    methods = METHODS.of_family(Family.SDXL)
    for method in methods:
        put(store.folders[0], method.weights, offsets(len(method.inputs)))
    read = [store.layer(method) for method in methods]
    assert store.layer(methods[-1]) is read[-1]
    for name in ("vae_transparent_decoder", "vae_transparent_encoder"):
        network = TransparentEncoder() if "encoder" in name else TransparentDecoder(channels=(8,) * 4, layers=1)
        put(store.folders[0], name, network.state_dict())
    store.decoder(Family.SDXL)
    store.encoder(Family.SDXL)
    assert store.layer(methods[-1]) is read[-1]
    assert store.layer(methods[0]) is not read[0]
    store.forget()
    assert store.layer(methods[-1]) is not read[-1]


@pytest.mark.parametrize(
    ("state", "complaint"),
    [
        (offsets(0), "is made for 1 frame and 0 condition pictures"),
        (offsets(2), "2 condition pictures"),
        ({"conv_in.weight": torch.zeros(1)}, "unknown form"),
        ({}, "holds no weights"),
    ],
)
def test_another_file_under_the_name_is_refused(store, state, complaint):
    method = METHODS.find("bg-to-blend")
    put(store.folders[0], method.weights, state)
    with pytest.raises(WeightsError, match=complaint) as refused:
        store.layer(method)
    assert method.weights in str(refused.value)


def test_the_networks_refuse_missing_extra_and_foreign_keys(store):
    name = VAE_FILES[Family.SD15].encoder
    state = TransparentEncoder().state_dict()
    first = next(iter(state))
    for wrong in (
        {key: value for key, value in state.items() if key != first},
        {**state, "more": torch.zeros(1)},
        {**state, first: torch.zeros(2)},
        offsets(0),
    ):
        put(store.folders[0], name, wrong)
        with pytest.raises(WeightsError, match=f"{name}.safetensors"):
            store.encoder(Family.SD15)
    put(store.folders[0], name, state)
    assert isinstance(store.encoder(Family.SD15), TransparentEncoder)


def test_a_store_that_may_not_fetch_says_where_to_put_the_file(store, hub):
    closed = WeightStore(store.folders, may_fetch=False)
    with pytest.raises(
        WeightsError, match=f"{ATTENTION.weights}.safetensors is missing: .*resolve.* put it into"
    ) as refused:
        closed.layer(ATTENTION)
    assert str(store.folders[0]) in str(refused.value)
    assert hub.downloads == 0


def test_a_file_placed_by_hand_in_any_folder_is_used(store, hub, content):
    store.folders[1].mkdir()
    (store.folders[1] / f"{ATTENTION.weights}.safetensors").write_bytes(content)
    assert len(store.layer(ATTENTION)) == 1
    assert hub.downloads == 0
    assert store.path(ATTENTION.weights).parent == store.folders[1]


def test_status_tells_whole_damaged_and_missing_files_apart(store, content):
    whole, damaged = store.folders[0] / "layer_xl_fg2ble.safetensors", store.folders[0] / "layer_sd15_joint.safetensors"
    whole.write_bytes(content)
    damaged.write_bytes(content[:-7])
    states = {status.file.name: status for status in store.status()}
    assert len(states) == 14
    assert [name for name, status in states.items() if status.is_installed] == ["layer_xl_fg2ble"]
    assert states["layer_xl_fg2ble"].to_mapping()["size"] == len(content)
    assert "damaged" in states["layer_sd15_joint"].problem
    assert states["layer_xl_bg2ble"].to_mapping() == {
        "name": "layer_xl_bg2ble",
        "family": "SDXL",
        "role": "layer model",
        "installed": False,
        "path": None,
        "size": None,
        "address": states["layer_xl_bg2ble"].address,
        "problem": "",
        "warning": "",
    }
    assert store.verify("layer_xl_fg2ble").problem == ""
    assert store.verify("layer_xl_fg2ble").is_installed
    assert "not the file that was published at revision e337e9d" in store.verify("layer_xl_fg2ble").warning
    with pytest.raises(WeightsError, match="use one of"):
        store.verify("nothing")
    with pytest.raises(WeightsError, match="damaged"):
        store.layer(METHODS.find("everything"))


def test_a_store_needs_a_folder():
    with pytest.raises(WeightsError, match="at least one"):
        WeightStore([])
