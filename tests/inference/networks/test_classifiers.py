"""Classifiers: published sizes, ImageNet weights against another implementation, fully convolutional use, features."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from inference.errors import NetworkError
from inference.networks import adaptation, table, weights


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def build(name: str, *, dimensions: int = 2, inputs: int = 3, outputs: int = 1000, **parameters) -> nn.Module:
    torch.manual_seed(0)
    return table.build(
        name, dimensions=dimensions, in_channels=inputs, out_channels=outputs, parameters=parameters
    ).eval()


@pytest.mark.parametrize(
    ("name", "outputs", "published"),
    [
        ("alexnet", 1000, 61_100_840),
        ("googlenet", 1000, 6_998_552),
        ("vgg16", 1000, 138_357_544),
        ("vgg19", 1000, 143_667_240),
        ("resnet18", 1000, 11_689_512),
        ("resnet50", 1000, 25_557_032),
        ("resnet152", 1000, 60_192_808),
        ("densenet121", 1000, 7_978_856),
        ("efficientnet_lite0", 1000, 4_652_008),
        ("vit", 1000, 86_567_656),
        ("darkcovidnet", 2, 1_164_434),
        ("darkcovidnet", 3, 1_167_586),
    ],
)
def test_classifiers_have_the_published_numbers_of_parameters(name, outputs, published):
    with torch.device("meta"):
        assert count(build(name, outputs=outputs)) == published


def test_a_3d_classifier_and_swin_unetr_have_the_published_numbers_of_parameters():
    """Zunair et al. 2020, one channel and one output; Swin UNETR as MONAI publishes it for 14 classes of BTCV."""
    assert count(build("cnn", dimensions=3, inputs=1, outputs=1)) == 1_351_873
    assert count(build("swin_unetr", dimensions=3, inputs=1, outputs=14, features=48)) == 62_187_296


SMALL = {
    "alexnet": ({}, (224, 224)),
    "googlenet": ({}, (64, 64)),
    "resnet18": ({"channels": [4, 8, 8, 8]}, (64, 64)),
    "resnet50": ({"channels": [4, 4, 8, 8]}, (64, 64)),
    "densenet121": ({"features": 8, "growth": 4}, (64, 64)),
    "efficientnet_lite0": ({}, (64, 64)),
    "darkcovidnet": ({"size": 64}, (64, 64)),
    "cnn": ({"channels": [4, 8], "hidden": 8}, (32, 32)),
}


@pytest.mark.parametrize("name", SMALL)
def test_fully_convolutional_gives_the_same_logits_at_native_size_and_a_map_beyond(name):
    parameters, size = SMALL[name]
    network = build(name, inputs=1, outputs=5, **parameters)
    for module in network.modules():  # running statistics that are not the identity
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    made = adaptation.fully_convolutional(network, 1, size)
    image = torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits, there = network(image), made(image)
        assert there.shape == (2, 5, 1, 1)
        assert torch.allclose(there.flatten(1), logits, atol=1e-5, rtol=1e-5)
        larger = made(torch.zeros(1, 1, size[0] + 64, size[1] + 32))
    assert larger.shape[2] > 1
    assert larger.shape[3] > 1


def test_a_volume_classifier_becomes_fully_convolutional_as_well():
    network = build("resnet18", dimensions=3, inputs=1, outputs=2, channels=[4, 4, 8, 8])
    made = adaptation.fully_convolutional(network, 1, (32, 32, 32))
    volume = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(made(volume).flatten(1), network(volume), atol=1e-5)
        assert made(torch.zeros(1, 1, 64, 32, 32)).shape == (1, 2, 2, 1, 1)


def test_a_score_map_finds_the_place():
    """A network whose score is the brightness answers brightest where the bright square lies."""
    network = build("cnn", inputs=1, outputs=1, channels=[1], hidden=1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.constant_(module.weight, 1.0)
                nn.init.zeros_(module.bias)
    made = adaptation.fully_convolutional(network, 1, (16, 16))
    image = torch.zeros(1, 1, 64, 64)
    image[0, 0, 40:50, 8:18] = 1
    with torch.no_grad():
        scores = made(image)[0, 0]
    row, column = divmod(int(scores.argmax()), scores.shape[1])
    assert abs(2 * row + 8 - 45) <= 4
    assert abs(2 * column + 8 - 13) <= 4


def test_what_cannot_be_fully_convolutional_says_so():
    with pytest.raises(NetworkError, match="VisionTransformer"):
        adaptation.fully_convolutional(build("vit", image=[32], width=8, depth=1, heads=2, inner=8), 3, (32, 32))
    with pytest.raises(NetworkError, match="has 3×3 cells, and the classifier reads 6×6"):
        adaptation.fully_convolutional(build("alexnet", inputs=1, outputs=2), 1, (127, 127))


@pytest.mark.parametrize(
    ("name", "parameters"), [*((name, SMALL[name][0]) for name in ("resnet18", "efficientnet_lite0", "darkcovidnet"))]
)
def test_features_are_what_the_last_layer_reads_and_the_network_stays_as_it_is(name, parameters):
    network = build(name, inputs=1, outputs=3, **parameters)
    before = weights.digest(network)
    images = torch.randn(2, 1, 64, 64)
    features = adaptation.extract(network, images)
    _, head = adaptation.head_of(network)
    with torch.no_grad():
        assert torch.allclose(head(features), network(images), atol=1e-6)
    assert weights.digest(network) == before


def ramps() -> torch.Tensor:
    across = torch.linspace(-1, 1, 224)[None].expand(224, 224)
    return torch.stack([across, across.T, torch.sin(torch.arange(224) / 10)[None].expand(224, 224)])[None]


def test_imagenet_weights_give_the_logits_of_another_implementation():
    """Logits of efficientnet_lite_pytorch 0.1.0 with the same weights on the same constructed image."""
    network = build("efficientnet_lite0")
    report = weights.load(network, "efficientnet_lite0", "imagenet")
    assert (len(report.loaded), report.fresh, report.unused) == (296, [], [])
    with torch.no_grad():
        logits = network(ramps())[0]
    assert logits[:6].tolist() == pytest.approx([0.1284, 1.2693, 0.0691, -0.0393, -0.6437, 1.0325], abs=2e-4)
    assert (int(logits.argmax()), float(logits.norm())) == (418, pytest.approx(43.5332, abs=1e-3))


def test_the_last_layer_may_read_the_means_of_every_stage():
    """Compared with the means of the maps that hooks catch on the published network."""
    network = build("efficientnet_lite0", inputs=1, outputs=3, pooling="stages")
    plain = build("efficientnet_lite0", inputs=1, outputs=3)
    weights.load(network, "efficientnet_lite0", "imagenet")
    weights.load(plain, "efficientnet_lite0", "imagenet")
    caught: list[torch.Tensor] = []
    for module in [plain.stem_norm, *(plain.blocks[n] for n in (0, 2, 4, 7, 10, 14, 15)), plain.top_norm]:
        module.register_forward_hook(lambda module, arguments, output: caught.append(output))
    image = ramps()[:, :1, :64, :64]
    with torch.no_grad():
        plain(image)
    caught[0], caught[-1] = caught[0].clamp(0, 6), caught[-1].clamp(0, 6)
    found = adaptation.extract(network, image)
    assert found.shape == (1, 32 + 16 + 24 + 40 + 80 + 112 + 192 + 320 + 1280)
    assert torch.allclose(found, torch.cat([each.mean((2, 3)) for each in caught], dim=1), atol=1e-5)
    with pytest.raises(NetworkError, match="several feature maps"):
        adaptation.fully_convolutional(network, 1, (64, 64))


def test_colour_weights_on_a_grey_image_are_those_of_the_image_repeated_three_times():
    colour, grey = build("efficientnet_lite0"), build("efficientnet_lite0", inputs=1, outputs=3)
    weights.load(colour, "efficientnet_lite0", "imagenet")
    report = weights.load(grey, "efficientnet_lite0", "imagenet")
    assert report.summed == ["stem.weight"]
    assert report.fresh == ["classifier.1.weight", "classifier.1.bias"]
    assert "294 of 296 tensors loaded" in report.words()
    image = ramps()[:, :1]
    one = adaptation.extract(grey, image)
    three = adaptation.extract(colour, image.expand(-1, 3, -1, -1))
    assert torch.allclose(one, three, atol=1e-4)


def test_weights_come_from_a_file_and_do_not_from_one_that_runs_code_or_does_not_fit(tmp_path):
    from safetensors.torch import save_file

    network = build("resnet18", inputs=1, outputs=4, channels=[4, 8, 8, 8])
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "weights.pth")
    for name in ("weights.safetensors", "weights.pth"):
        torch.manual_seed(9)
        other = table.build(
            "resnet18", dimensions=2, in_channels=1, out_channels=2, parameters={"channels": [4, 8, 8, 8]}
        )
        report = weights.load(other, "resnet18", str(tmp_path / name))
        assert report.fresh == ["fc.weight", "fc.bias"]
        assert torch.equal(other.layer1[0].conv1.weight, network.layer1[0].conv1.weight)
    with pytest.raises(NetworkError, match=r"do not fit resnet18: conv1\.weight has the shape"):
        weights.load(build("resnet18", inputs=1, channels=[8, 8, 8, 8]), "resnet18", str(tmp_path / "weights.pth"))
    torch.save(nn.Linear(1, 1), tmp_path / "module.pth")
    with pytest.raises(NetworkError, match="cannot be read as weights"):
        weights.load(network, "resnet18", str(tmp_path / "module.pth"))
    with pytest.raises(NetworkError, match="no weights file"):
        weights.load(network, "resnet18", str(tmp_path / "nowhere.pth"))
    with pytest.raises(NetworkError, match="No installed package brings ImageNet weights for resnet18"):
        weights.load(network, "resnet18", "imagenet")
