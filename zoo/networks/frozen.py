"""Batch normalisation as model files hold it: folded to one scale and one bias a channel."""

from torch import Tensor, nn
from torch.nn import functional as F


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Scales and shifts each channel in train mode, too, where it would normalise by the batch.

    A file stores no statistics: normalising by those of a batch would undo the scales that it was folded into. Weight and
    bias are parameters and can be tuned; the statistics stay the constants that they are.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_features}, folded: the same in train and eval mode"


def freeze(network: nn.Module) -> None:
    """Turns every batch normalisation of the network into a frozen one, in place; its tensors stay."""
    for layer in network.modules():
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = FrozenBatchNorm2d
