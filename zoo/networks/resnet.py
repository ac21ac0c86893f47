"""Residual networks: ResNet-20-4 and ResNet-20 for CIFAR-10, ResNet-18 and ResNet-50 for ImageNet.

He et al. 2016a (arXiv 1512.03385) describe ResNet-20 and the ImageNet networks, He et al. 2016b (arXiv 1603.05027) the
pre-activation units of ResNet-20-4. The networks of the first paper use torchvision's names in their state dicts.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.networks.conv import conv


def subsampled(x: Tensor, outputs: int, stride: int) -> Tensor:
    """Every `stride`-th pixel, and channels of zeros after those of x: option A of He et al. 2016a, section 3.3."""
    x = x[:, :, ::stride, ::stride]  # (B, inputs, H / stride, W / stride)
    return F.pad(x, [0, 0, 0, 0, 0, outputs - x.shape[1]])  # (B, outputs, ...)


# --- ResNet-20-4 --------------------------------------------------------------------------------------------


class PreActivationBlock(nn.Module):
    """BN, ReLU, conv, BN, ReLU, conv, plus a shortcut without parameters (He et al. 2016b, figure 4e).

    Where the shape changes, the shortcut takes every second pixel and appends channels of zeros (option A,
    He et al. 2016a, section 3.3), so that every convolution of the network is 3x3. ``shared`` blocks, the
    first of each stage, activate before the two paths part (He et al. 2016b, appendix, and their code where
    the shape changes); the others add their input as it is.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shared: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs, 3)
        self.stride = stride
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x), inplace=True)  # (B, inputs, H, W)
        shortcut = active if self.shared else x
        residual = self.conv1(active)  # (B, outputs, H / stride, W / stride)
        residual = self.conv2(F.relu(self.bn2(residual), inplace=True))
        if self.stride > 1:  # the only blocks that add channels
            shortcut = subsampled(shortcut, residual.shape[1], self.stride)
        return shortcut + residual


class PreActivationResNet(nn.Module):
    """Stem, three stages of pre-activation blocks (32, 16, 8 pixels), BN, ReLU, mean, dense layer."""

    def __init__(self, blocks: int, widths: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.conv1 = conv(3, widths[0], 3)
        inputs = widths[0]
        for stage, width in enumerate(widths, start=1):
            layer = nn.Sequential()
            for index in range(blocks):
                stride = 2 if stage > 1 and index == 0 else 1
                layer.append(PreActivationBlock(inputs, width, stride, shared=index == 0))
                inputs = width
            self.add_module(f"layer{stage}", layer)
        self.bn = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)  # (B, 64, 32, 32)
        x = self.layer1(x)  # (B, 64, 32, 32)
        x = self.layer2(x)  # (B, 128, 16, 16)
        x = self.layer3(x)  # (B, 256, 8, 8)
        x = F.relu(self.bn(x), inplace=True)
        x = x.mean((2, 3))  # (B, 256)
        return self.fc(x)  # (B, classes)


def resnet20_4(classes: int = 10) -> PreActivationResNet:
    """ResNet-20 with four times the width, 64-128-256 (Oktay et al. 2019, section 3.2)."""
    return PreActivationResNet(3, (64, 128, 256), classes)


# --- ResNet-20, ResNet-18 and ResNet-50 ---------------------------------------------------------------------


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016a, figure 5, left)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = conv(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)  # (B, width, H / stride, W / stride)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)  # (B, width, H / stride, W / stride)
        x = self.bn2(self.conv2(x))
        return F.relu(x + shortcut, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (He et al. 2016a, figure 5, right).

    The stride is in the first 1x1 as in that paper (v1). A subclass moves it.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        first, second = self.strides(stride)
        self.conv1 = conv(inputs, width, 1, first)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, second)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, 4 * width, 1)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = downsample

    @staticmethod
    def strides(stride: int) -> tuple[int, int]:
        """Strides of the first 1x1 and of the 3x3 convolution."""
        return stride, 1

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)  # (B, 4 width, H / stride, ...)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)  # (B, width, ...), strided in v1
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)  # (B, width, H / stride, W / stride)
        x = self.bn3(self.conv3(x))  # (B, 4 width, H / stride, W / stride)
        return F.relu(x + shortcut, inplace=True)


class BottleneckV15(Bottleneck):
    """The same tensors with the stride in the 3x3 convolution: torchvision's and NVIDIA's "v1.5"."""

    @staticmethod
    def strides(stride: int) -> tuple[int, int]:
        return 1, stride


class PaddedBlock(BasicBlock):
    """The same with a shortcut without parameters, also where the shape changes (option A)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__(inputs, width, stride, None)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        residual = F.relu(self.bn1(self.conv1(x)), inplace=True)  # (B, width, H / stride, W / stride)
        residual = self.bn2(self.conv2(residual))
        shortcut = x if self.stride == 1 else subsampled(x, residual.shape[1], self.stride)
        return F.relu(residual + shortcut, inplace=True)


class SmallResNet(nn.Module):
    """Stem, three stages of basic blocks (32, 16, 8 pixels; 16, 32, 64 channels), mean, dense layer.

    The networks for CIFAR-10 of He et al. 2016a, section 4.2: 6 blocks + 2 layers, shortcuts without parameters.
    """

    def __init__(self, blocks: int, classes: int) -> None:
        super().__init__()
        self.conv1 = conv(3, 16, 3)
        self.bn1 = nn.BatchNorm2d(16)
        inputs = 16
        for stage, width in enumerate((16, 32, 64), start=1):
            layer = nn.Sequential()
            for index in range(blocks):
                stride = 2 if stage > 1 and index == 0 else 1
                layer.append(PaddedBlock(inputs, width, stride))
                inputs = width
            self.add_module(f"layer{stage}", layer)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)  # (B, 16, 32, 32)
        x = self.layer1(x)  # (B, 16, 32, 32)
        x = self.layer2(x)  # (B, 32, 16, 16)
        x = self.layer3(x)  # (B, 64, 8, 8)
        x = x.mean((2, 3))  # (B, 64)
        return self.fc(x)  # (B, classes)


class ResNet(nn.Module):
    """7x7 stem, max-pooling, four stages, mean, dense layer; 32 times smaller maps at the end."""

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], blocks: tuple[int, ...], classes: int
    ) -> None:
        super().__init__()
        self.conv1 = conv(3, 64, 7, stride=2)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for stage, count in enumerate(blocks, start=1):
            width = 32 << stage  # 64, 128, 256, 512
            outputs = width * block.expansion
            layer = nn.Sequential()
            for index in range(count):
                stride = 2 if stage > 1 and index == 0 else 1
                downsample = None
                if stride > 1 or inputs != outputs:
                    downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
                layer.append(block(inputs, width, stride, downsample))
                inputs = outputs
            self.add_module(f"layer{stage}", layer)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        # Sizes for 224 x 224 images; E = 1 (ResNet-18) or 4 (ResNet-50).
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)  # (B, 64, 112, 112)
        x = F.max_pool2d(x, 3, stride=2, padding=1)  # (B, 64, 56, 56)
        x = self.layer1(x)  # (B, 64 E, 56, 56)
        x = self.layer2(x)  # (B, 128 E, 28, 28)
        x = self.layer3(x)  # (B, 256 E, 14, 14)
        x = self.layer4(x)  # (B, 512 E, 7, 7)
        x = F.adaptive_avg_pool2d(x, 1)  # (B, 512 E, 1, 1)
        return self.fc(torch.flatten(x, 1))  # (B, classes)


def resnet20(classes: int = 10) -> SmallResNet:
    """ResNet-20 (He et al. 2016a, section 4.2)."""
    return SmallResNet(3, classes)


def resnet18(classes: int = 1000) -> ResNet:
    """ResNet-18 (He et al. 2016a, table 1)."""
    return ResNet(BasicBlock, (2, 2, 2, 2), classes)


def resnet50(classes: int = 1000) -> ResNet:
    """ResNet-50 as published (v1): a stage's stride in the first 1x1 of its first block."""
    return ResNet(Bottleneck, (3, 4, 6, 3), classes)


def resnet50_v1_5(classes: int = 1000) -> ResNet:
    """ResNet-50 v1.5: a stage's stride in the 3x3 of its first block."""
    return ResNet(BottleneckV15, (3, 4, 6, 3), classes)
