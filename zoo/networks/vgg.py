"""VGG-16 for CIFAR-10 (Simonyan & Zisserman 2015, configuration D) with BN and dense layers of 512."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.networks.conv import conv

WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)  # output channels, conv1 ... conv13
POOLED = (2, 4, 7, 10, 13)  # the convolutions that a max-pooling follows


class VGG16(nn.Module):
    """13 convolutions 3x3 with BN and ReLU, and three dense layers: conv1..conv13, bn1..bn13, fc1..fc3.

    The convolutions have no bias, since beta of their BN is one (Oktay et al. 2019, section 3.2). ``dropout``
    is the probability before fc2 and fc3 in training; it may be set on a built network.
    """

    def __init__(self, classes: int = 10, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        inputs = 3
        for number, width in enumerate(WIDTHS, start=1):
            self.add_module(f"conv{number}", conv(inputs, width, 3))
            self.add_module(f"bn{number}", nn.BatchNorm2d(width))
            inputs = width
        self.fc1 = nn.Linear(512, 512)
        self.fc2 = nn.Linear(512, 512)
        self.fc3 = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        for number in range(1, len(WIDTHS) + 1):
            x = getattr(self, f"conv{number}")(x)  # (B, WIDTHS[number - 1], H, W)
            x = F.relu(getattr(self, f"bn{number}")(x), inplace=True)
            if number in POOLED:  # images of 16 pixels, in training, reach one pixel earlier, which ceil_mode keeps
                x = F.max_pool2d(x, 2, ceil_mode=True)  # H = W = 16, 8, 4, 2, 1
        x = torch.flatten(x, 1)  # (B, 512)
        x = F.relu(self.fc1(x))  # (B, 512)
        x = F.relu(self.fc2(F.dropout(x, self.dropout, self.training)))  # (B, 512)
        return self.fc3(F.dropout(x, self.dropout, self.training))  # (B, classes)
