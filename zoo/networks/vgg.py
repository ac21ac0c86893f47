"""VGG-16 for CIFAR-10 (Simonyan & Zisserman 2015, configuration D) with BN and dense layers of 512."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.networks.conv import conv

WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)  # output channels, conv1 ... conv13


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
        # Images of 16 pixels, in training, reach one pixel earlier, which ceil_mode keeps.
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)  # (B, 64, 32, 32)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)  # (B, 64, 32, 32)
        x = F.max_pool2d(x, 2, ceil_mode=True)  # (B, 64, 16, 16)
        x = F.relu(self.bn3(self.conv3(x)), inplace=True)  # (B, 128, 16, 16)
        x = F.relu(self.bn4(self.conv4(x)), inplace=True)  # (B, 128, 16, 16)
        x = F.max_pool2d(x, 2, ceil_mode=True)  # (B, 128, 8, 8)
        x = F.relu(self.bn5(self.conv5(x)), inplace=True)  # (B, 256, 8, 8)
        x = F.relu(self.bn6(self.conv6(x)), inplace=True)  # (B, 256, 8, 8)
        x = F.relu(self.bn7(self.conv7(x)), inplace=True)  # (B, 256, 8, 8)
        x = F.max_pool2d(x, 2, ceil_mode=True)  # (B, 256, 4, 4)
        x = F.relu(self.bn8(self.conv8(x)), inplace=True)  # (B, 512, 4, 4)
        x = F.relu(self.bn9(self.conv9(x)), inplace=True)  # (B, 512, 4, 4)
        x = F.relu(self.bn10(self.conv10(x)), inplace=True)  # (B, 512, 4, 4)
        x = F.max_pool2d(x, 2, ceil_mode=True)  # (B, 512, 2, 2)
        x = F.relu(self.bn11(self.conv11(x)), inplace=True)  # (B, 512, 2, 2)
        x = F.relu(self.bn12(self.conv12(x)), inplace=True)  # (B, 512, 2, 2)
        x = F.relu(self.bn13(self.conv13(x)), inplace=True)  # (B, 512, 2, 2)
        x = F.max_pool2d(x, 2, ceil_mode=True)  # (B, 512, 1, 1)
        x = torch.flatten(x, 1)  # (B, 512)
        x = F.relu(self.fc1(x))  # (B, 512)
        x = F.relu(self.fc2(F.dropout(x, self.dropout, self.training)))  # (B, 512)
        return self.fc3(F.dropout(x, self.dropout, self.training))  # (B, classes)
