"""The two MNIST networks (LeCun et al. 1998; the second as in Caffe's ``lenet.prototxt``)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LeNet300100(nn.Module):
    """LeNet300-100: a 784-300-100-10 perceptron with ReLU."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(x, 1)  # (B, 784)
        x = F.relu(self.fc1(x))  # (B, 300)
        x = F.relu(self.fc2(x))  # (B, 100)
        return self.fc3(x)  # (B, classes)


class LeNet5Caffe(nn.Module):
    """LeNet-5-Caffe: two convolutions, each followed by max-pooling alone, then two dense layers."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, x: Tensor) -> Tensor:
        # Caffe's network has no ReLU after its convolutions; its only one is between the dense layers.
        x = F.max_pool2d(self.conv1(x), 2)  # (B, 20, 12, 12)
        x = F.max_pool2d(self.conv2(x), 2)  # (B, 50, 4, 4)
        x = torch.flatten(x, 1)  # (B, 800)
        x = F.relu(self.fc1(x))  # (B, 500)
        return self.fc2(x)  # (B, classes)
