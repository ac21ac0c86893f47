"""The one kind of convolution in the networks with batch normalisation."""

from torch import nn


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias, padded to keep the size at stride 1, He-normal over its fan-out.

    He et al. 2015 (arXiv 1502.01852), section 2.2: standard deviation sqrt(2 / (kernel^2 outputs)).
    """
    layer = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    # On the meta device the first normal draw would import 800 modules of torch, 1.5 s for nothing.
    if not layer.weight.is_meta:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
