"""Image classifiers: a small CNN for small images, and the ResNet family in torchvision's parameter layout.

Ours and not torchvision's, because the public torchvision wheel does not import beside a CPU build of torch.
"""

from collections.abc import Sequence

import torch
from torch import nn

SMALL_IMAGE_PIXELS = 64
"""Up to this side a ResNet starts with a 3x3 convolution and no pooling, as is usual for CIFAR-sized images."""

NETWORKS = ("cnn", "resnet18", "resnet34", "resnet50")


def build(network: str, *, channels: int, pixels: int, num_classes: int, dropout: float) -> nn.Module:
    """Build a classifier of images [batch, channels, pixels, pixels] in [0, 1].

    Args:
        network: one of `NETWORKS`.
        channels: 1 or 3.
        pixels: shorter side of the images; chooses a ResNet's stem.
        num_classes: length of the output.
        dropout: before the last layer, in [0, 1).
    """
    if network == "cnn":
        return SmallCnn(channels, num_classes, dropout)
    small = pixels <= SMALL_IMAGE_PIXELS
    if network == "resnet50":
        return ResNet(Bottleneck, (3, 4, 6, 3), channels, num_classes, small, dropout)
    depth = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}[network]
    return ResNet(BasicBlock, depth, channels, num_classes, small, dropout)


class SmallCnn(nn.Sequential):
    """Two strided convolutions and a linear layer: 0.96 on the 8x8 digits within seconds."""

    def __init__(self, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__(
            nn.Conv2d(channels, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(64 * 4, num_classes),
        )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    expansion = 1

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(width_in, width * self.expansion, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images, or features, to the next ones."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (carrying the stride, "v1.5"), 1x1 convolutions around a shortcut."""

    expansion = 4

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.downsample = _shortcut(width_in, width * self.expansion, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images, or features, to the next ones."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def _shortcut(width_in: int, width_out: int, stride: int) -> nn.Module:
    if stride == 1 and width_in == width_out:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(width_in, width_out, 1, stride, bias=False), nn.BatchNorm2d(width_out))


class ResNet(nn.Module):
    """Residual network (He et al., 2015)."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depth: Sequence[int],
        channels: int,
        num_classes: int,
        small: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.conv1 = (
            nn.Conv2d(channels, 64, 3, padding=1, bias=False)
            if small
            else nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        )
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        width_in = 64
        stages: list[nn.Module] = []
        for number, blocks in enumerate(depth):
            width = 64 * 2**number
            layers: list[nn.Module] = []
            for position in range(blocks):
                layers.append(block(width_in, width, 2 if number and not position else 1))
                width_in = width * block.expansion
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(width_in, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images, or features, to the next ones."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.dropout(x.mean(dim=(2, 3))))
